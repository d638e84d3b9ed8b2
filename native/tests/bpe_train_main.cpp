// BPE training from the command line, to compare with the reference (scripts/golden/bpe_train_check.py) and to time.
//
//   bpe_train_main words <kind> <file>                      the words of a file, one per line, as hex
//   bpe_train_main train <kind> <vocab> <min> <threads> <cap bytes> <file>...   tokens and merges on stdout, times on stderr
//   bpe_train_main selftest
//
// kind: gpt2, gpt2-digits, llama3, qwen2. Each line of a file, line break included, is one sequence.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "../tokenizer/bpe_train.h"

namespace {

using namespace lathe::tokenizer;

bool kind_of(const char* name, PreTokenizerKind& kind) {
  constexpr std::pair<const char*, PreTokenizerKind> kNames[] = {{"gpt2", PreTokenizerKind::kGpt2},
                                                                {"gpt2-digits", PreTokenizerKind::kGpt2Digits},
                                                                {"llama3", PreTokenizerKind::kLlama3},
                                                                {"qwen2", PreTokenizerKind::kQwen2}};
  for (const auto& [known, value] : kNames) {
    if (std::strcmp(name, known) == 0) {
      kind = value;
      return true;
    }
  }
  std::fprintf(stderr, "unknown kind %s\n", name);
  return false;
}

std::string read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const size_t length = end == std::string_view::npos ? text.size() : end + 1;
    lines.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return lines;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int print_words(int, char** argv) {
  PreTokenizerKind kind;
  if (!kind_of(argv[2], kind)) return 2;
  const std::string text = read_file(argv[3]);
  for_each_word(text, kind, [](std::string_view word) {
    for (const char c : word) std::printf("%02x", static_cast<unsigned char>(c));
    std::printf("\n");
  });
  return 0;
}

int train(int argc, char** argv) {
  BpeTrainerOptions options;
  if (!kind_of(argv[2], options.pre_tokenizer)) return 2;
  options.vocab_size = std::strtoull(argv[3], nullptr, 10);
  options.min_frequency = std::strtoull(argv[4], nullptr, 10);
  options.threads = std::strtoull(argv[5], nullptr, 10);
  options.memory_cap_bytes = std::strtoull(argv[6], nullptr, 10);
  options.special_tokens = {"<|endoftext|>"};
  for (int b = 0; b < 256; ++b) options.initial_alphabet.push_back(static_cast<uint8_t>(b));
  BpeTrainer trainer(options);
  auto start = std::chrono::steady_clock::now();
  for (int i = 7; i < argc; ++i) {
    const std::string text = read_file(argv[i]);
    const auto lines = lines_of(text);
    if (const auto status = trainer.feed(lines); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.message().c_str());
      return 1;
    }
  }
  const double counting = seconds_since(start);
  start = std::chrono::steady_clock::now();
  BpeModel model;
  if (const auto status = trainer.train(model); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  std::fprintf(stderr, "count %.2f s, merge %.2f s, %llu words, %llu occurrences, pruned %llu, %zu merges\n", counting,
               seconds_since(start), static_cast<unsigned long long>(model.stats.words),
               static_cast<unsigned long long>(model.stats.occurrences),
               static_cast<unsigned long long>(model.stats.pruned_words), model.merges.size());
  std::printf("%zu\n", model.tokens.size());
  for (const auto& token : model.tokens) std::printf("%s\n", token.c_str());
  for (const auto& [a, b] : model.merges) std::printf("%s %s\n", model.tokens[a].c_str(), model.tokens[b].c_str());
  return 0;
}

int failures = 0;

void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "FAILED %s\n", what);
}

std::string joined(std::string_view text, PreTokenizerKind kind) {
  std::string out;
  for_each_word(text, kind, [&](std::string_view word) { out.append(word).push_back('|'); });
  return out;
}

BpeModel learn(BpeTrainerOptions options, const std::vector<std::string>& texts) {
  BpeTrainer trainer(std::move(options));
  for (const auto& text : texts) check(trainer.feed(text).ok(), "feed");
  BpeModel model;
  check(trainer.train(model).ok(), "train");
  return model;
}

int selftest() {
  check(joined("I'm  here, 2024!\n\n x", PreTokenizerKind::kGpt2) == "I|'m| | here|,| 2024|!|\n\n| x|", "gpt2 words");
  check(joined("a  12 b", PreTokenizerKind::kGpt2Digits) == "a|  |1|2| b|", "digits alone");
  check(joined("I'M (x)\n\n y 12345", PreTokenizerKind::kLlama3) == "I|'M| (|x|)\n\n| y| |123|45|", "llama3 words");
  check(joined("\n  \n  z9", PreTokenizerKind::kQwen2) == "\n  \n| | z|9|", "qwen2 words");
  const std::string broken("a\xff\xe2\x82", 4);
  std::string whole;
  for_each_word(broken, PreTokenizerKind::kGpt2, [&](std::string_view word) { whole.append(word); });
  check(whole == broken, "malformed bytes are kept");

  BpeTrainerOptions options;
  options.threads = 2;
  const BpeModel model = learn(options, {"low low low low low lower lower newest newest newest newest newest newest widest widest widest"});
  check(model.merges.size() > 3 && model.tokens[model.merges[0].first] == "e" && model.tokens[model.merges[0].second] == "s", "most frequent pair first");
  check(model.stats.occurrences == 16, "occurrences");

  options.vocab_size = 100;
  options.special_tokens = {"<s>", "<s>"};
  options.min_frequency = 4;
  const BpeModel special = learn(options, {"ab ab ab ac"});
  check(special.tokens[0] == "<s>" && special.tokens.size() == 1 + 4, "special tokens once, rare pairs never");

  options = {};
  options.min_frequency = 1;
  BpeTrainer big(options);
  check(big.feed_word("ab", 3000000000u).ok() && big.feed_word("cd", 5).ok(), "feed_word");
  BpeModel counted;
  check(big.train(counted).ok() && counted.merges.size() == 2 && counted.tokens[counted.merges[0].first] == "a", "counts beyond 2^31");

  options.memory_cap_bytes = 40000;
  BpeTrainer capped(options);
  for (int i = 0; i < 5000; ++i) check(capped.feed("common word" + std::to_string(i)).ok(), "feed under a cap");
  BpeModel pruned;
  check(capped.train(pruned).ok() && pruned.stats.pruned_words > 0, "the cap prunes and says so");
  check(pruned.stats.occurrences + pruned.stats.pruned_occurrences == 15000, "nothing is lost without a count");
  check(pruned.stats.occurrences >= 10000, "frequent words stay");

  BpeModel empty = learn({}, {""});
  check(empty.tokens.empty() && empty.merges.empty(), "no text");
  options = {};
  options.progress = [](size_t, size_t) { return false; };
  BpeTrainer stopped(options);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += " w" + std::to_string(i * 7919) + "q";
  check(stopped.feed(text).ok() && !stopped.train(empty).ok(), "progress can stop");
  std::printf(failures == 0 ? "ok\n" : "%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "selftest") == 0) return selftest();
  if (argc == 4 && std::strcmp(argv[1], "words") == 0) return print_words(argc, argv);
  if (argc >= 8 && std::strcmp(argv[1], "train") == 0) return train(argc, argv);
  std::fprintf(stderr, "usage: words <kind> <file> | train <kind> <vocab> <min> <threads> <cap> <file>... | selftest\n");
  return 2;
}
