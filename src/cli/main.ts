#!/usr/bin/env node
/** `lathe`: the command line. Each command is a file; this one names them, parses flags and turns errors into exit codes. */
/* eslint-disable @typescript-eslint/no-require-imports -- commands load when they are run, so that `lathe --help` stays quick */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { reportError } from './output';

/** The command line, not yet parsed. */
export function program(): Command {
  const lathe = new Command('lathe')
    .description('Fine-tune and pretrain language models from Node.js.')
    .version(version(), '-V, --version', 'print the version')
    .showSuggestionAfterError(true)
    .enablePositionalOptions();

  lathe.addHelpText(
    'after',
    '\nlathe COMMAND --help tells more. Start with: lathe train (a small model, offline, a few minutes).',
  );

  const train = lathe
    .command('train')
    .description('train a model; without a configuration: the bundled quickstart')
    .argument(
      '[config]',
      'YAML file with the keys of transformers TrainingArguments and TRL SFTConfig; docs/configuration.md lists them',
    )
    .argument('[overrides...]', 'key=value or --key value, in the order given')
    .addHelpText(
      'after',
      '\nExamples:\n  lathe train\n  lathe train configs/smollm2-135m-qlora.yaml model_name_or_path=./SmolLM2-135M dataset_name=rows.jsonl\n  lathe train my.yaml resume_from_checkpoint=true --max_steps 200\n\nCtrl-C or SIGTERM finishes the step, saves a checkpoint and stops; a second Ctrl-C stops at once.',
    )
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (config: string | undefined, overrides: string[]) => {
      // What follows the configuration is passed on as it is, and so is a flag that everybody tries.
      if (overrides.some((o) => o === '--help' || o === '-h')) return train.help();
      const { trainCommand } = require('./train') as typeof import('./train');
      const [path, rest] = splitConfig(config, overrides);
      await trainCommand(path, rest);
    });

  lathe
    .command('plan')
    .description('memory, FLOPs and remedies of a run, before anything is read or allocated')
    .argument('<config>', 'YAML file')
    .argument('[overrides...]', 'key=value or --key value')
    .option(
      '--device <name>',
      'cpu, t4, rtx4090, a100-40, a100-80, h100 or h200 (default: the device of the configuration)',
    )
    .option('--json', 'machine-readable')
    .addHelpText(
      'after',
      '\nExamples:\n  lathe plan configs/llama3-8b-qlora.yaml --device h200\n  lathe plan my.yaml --device rtx4090 per_device_train_batch_size=4\n\nNo weights and no data are read: rows count as max_length tokens. Exit code 2: it does not fit.',
    )
    .allowUnknownOption()
    .action(async (config: string, overrides: string[], options: { device?: string; json?: boolean }) => {
      const { planCommand } = require('./plan') as typeof import('./plan');
      await planCommand(config, overrides, options);
    });

  lathe
    .command('generate')
    .description('generate text from a model, with or without an adapter')
    .requiredOption('--model <path>', 'model folder, GGUF file or Hub name')
    .option('--adapter <folder>', 'PEFT adapter folder')
    .option('--prompt <text...>', 'prompts; without one, lines are read from standard input')
    .option('--chat', 'put each prompt through the chat template as a user message')
    .option('--alpaca', 'put each prompt through the Alpaca template as an instruction')
    .option('--system <text>', 'system message, with --chat')
    .option('--max-new-tokens <n>', 'new tokens at most', '128')
    .option('--do-sample', 'draw instead of taking the most probable token')
    .option('--temperature <x>', 'below 1: closer to the most probable text; above 1: more varied')
    .option('--top-k <n>', 'draw from the n most probable tokens')
    .option('--top-p <x>', 'draw from the fewest tokens whose probabilities add up to x')
    .option('--min-p <x>', 'leave out tokens less probable than x times the best one')
    .option('--repetition-penalty <x>', 'above 1: tokens seen before become less probable')
    .option('--num-return-sequences <n>', 'answers to each prompt')
    .option('--stop <text...>', 'stop strings')
    .option('--seed <n>', 'of the draws')
    .option('--load-in-4bit', 'hold linear weights as NF4 with double quantisation')
    .option('--dtype <name>', 'auto, float32 or bfloat16', 'auto')
    .option('--device <name>', 'auto, cpu, cuda or cuda:N; auto takes the first GPU when there is one', 'auto')
    .option('--threads <n>', 'CPU threads (default: all cores of the process)')
    .option('--json', 'one JSON object per sequence')
    .addHelpText(
      'after',
      '\nExamples:\n  lathe generate --model ./SmolLM2-135M-Instruct --chat --prompt "Why is the sky blue?"\n  lathe generate --model base --adapter outputs/run --alpaca --prompt "Name a fruit." --do-sample --temperature 0.7 --seed 1',
    )
    .action(async (options: Record<string, unknown>) => {
      const { generateCommand } = require('./generate') as typeof import('./generate');
      await generateCommand(options);
    });

  const evaluate = lathe
    .command('eval')
    .description(
      'loss and perplexity of a model on a data set, masked as the configuration says; `lathe eval passk` runs generated code',
    )
    .argument('<config>', 'YAML file; model, data and adapter_name_or_path are read from it')
    .argument('[overrides...]', 'key=value or --key value')
    .option('--json', 'machine-readable')
    .allowUnknownOption()
    .action(async (config: string, overrides: string[], options: { json?: boolean }) => {
      const { evalCommand } = require('./eval') as typeof import('./eval');
      await evalCommand(config, overrides, options);
    });
  evaluate
    .enablePositionalOptions()
    .helpCommand(false)
    .command('passk')
    .description('pass@k: completions of programming problems, run against their tests')
    .option('--model <path>', 'model folder, GGUF file or Hub name to sample from')
    .option('--adapter <folder>', 'PEFT adapter folder')
    .option('--samples <file>', 'score these completions instead of sampling (JSON Lines with task_id, completion)')
    .option(
      '--problems <file>',
      "problems in HumanEval's format, .jsonl or .jsonl.gz (default: twenty simple ones that come with lathe)",
    )
    .option('--limit <n>', 'the first n problems only')
    .option('--allow-code-execution', 'the generated programs may be run on this machine (or set HF_ALLOW_CODE_EVAL=1)')
    .option('--num-samples <n>', 'completions of each problem (default: 10)')
    .option('--k <list>', 'such as 1,10,100 (default: those of 1, 10, 100 that the samples allow)')
    .option('--temperature <x>', 'of the draws; 0 takes the most probable token (default: 0.4)')
    .option('--top-p <x>', 'draw from the fewest tokens whose probabilities add up to x (default: 0.95)')
    .option('--top-k <n>', 'draw from the n most probable tokens; 0: all (default: 0)')
    .option('--max-new-tokens <n>', 'new tokens of a completion at most (default: 256)')
    .option('--batch-size <n>', 'completions generated at once (default: 10)')
    .option('--seed <n>', 'of the draws (default: 42)')
    .option('--output <file>', 'where the completions go, as they are made')
    .option(
      '--results <file>',
      'where the verdicts go (default: the file of completions with _results.jsonl behind it)',
    )
    .option('--timeout <s>', 'seconds that a program gets (default: 3)')
    .option('--memory-limit <mib>', 'MiB of memory that a program gets (default: 1024)')
    .option('--workers <n>', 'programs run at once (default: as many as there are cores)')
    .option('--python <path>', 'interpreter that runs the programs (default: python3)')
    .option('--load-in-4bit', 'hold linear weights as NF4 with double quantisation')
    .option('--dtype <name>', 'auto, float32 or bfloat16', 'auto')
    .option('--device <name>', 'auto, cpu, cuda or cuda:N; auto takes the first GPU when there is one', 'auto')
    .option('--threads <n>', 'CPU threads (default: all cores of the process)')
    .option('--json', 'machine-readable')
    .addHelpText(
      'after',
      '\nExamples:\n  lathe eval passk --model outputs/codeparrot --num-samples 20 --k 1,10 --output samples.jsonl --allow-code-execution\n  lathe eval passk --samples samples.jsonl --problems HumanEval.jsonl.gz --allow-code-execution\n\nExit code 3: some programs could not be run. docs/evaluation.md says how programs are held.',
    )
    .action(async (options: Record<string, unknown>) => {
      const { passkCommand } = require('./passk') as typeof import('./passk');
      await passkCommand(options);
    });

  const data = lathe.command('data').description('look at training data');
  data
    .command('preview')
    .description('rows as they are trained, masked and trained tokens told apart, and what the doctor says')
    .argument('<config>', 'YAML file')
    .argument('[overrides...]', 'key=value or --key value')
    .option('-n, --rows <n>', 'rows to show', rowCount, 3)
    .option('--tokens', 'show each token in its own cell')
    .allowUnknownOption()
    .action(async (config: string, overrides: string[], options: { rows: number; tokens?: boolean }) => {
      const { previewCommand } = require('./data-preview') as typeof import('./data-preview');
      await previewCommand(config, overrides, options);
    });

  const tokenizer = lathe.command('tokenizer').description('train a tokenizer, or see how well one fits some text');
  const withTexts = (command: Command): Command =>
    command
      .requiredOption(
        '--files <path...>',
        'files, folders or quoted patterns; tables (.jsonl, .json, .csv, .parquet) give a column, anything else is one text; .gz and .zst too',
      )
      .option('--field <name>', 'column of tables (default: text, content or code)')
      .option('--as-text', 'read tables as plain text too')
      .option('--on-bad-file <what>', 'error or skip, for text files that are not UTF-8', 'error');
  withTexts(tokenizer.command('train').description('learn a byte-level BPE vocabulary'))
    .requiredOption('--vocab-size <n>', 'tokens in all: special ones, 256 bytes, merges')
    .requiredOption('--output <folder>', 'where tokenizer.json and tokenizer_config.json go')
    .option('--from <path>', "keep this tokenizer's pipeline and special tokens (folder or GGUF file)")
    .option('--special-tokens <token...>', 'further special tokens; they get the first ids')
    .option('--eos-token <token>', 'end of text (default without --from: <|endoftext|>)')
    .option('--bos-token <token>', 'begin of text (default without --from and --eos-token: <|endoftext|>)')
    .option('--pad-token <token>', 'padding (default: none, or that of --from)')
    .option('--pre-tokenizer <name>', 'how words are cut without --from: gpt2, gpt2-digits, llama3 or qwen2', 'gpt2')
    .option('--min-frequency <n>', 'pairs that occur less often are not merged (default: 2; 0 with --from)')
    .option(
      '--memory-cap <size>',
      'bound on the word counts, such as 2GiB: beyond it the rarest words are dropped, and said so',
    )
    .option('--threads <n>', 'CPU threads (default: all cores of the process)')
    .action(async (options: import('./tokenizer').TrainFlags) => {
      const { tokenizerTrainCommand } = require('./tokenizer') as typeof import('./tokenizer');
      await tokenizerTrainCommand(options);
    });
  withTexts(
    tokenizer
      .command('stats')
      .description('fertility, coverage, unknowns, longest tokens; side by side for two')
      .argument('<folder...>', 'one or two tokenizers'),
  )
    .option('--keywords <language>', 'which reserved words are not one token: python or javascript')
    .option('--json', 'machine-readable')
    .action(async (folders: string[], options: import('./tokenizer').TextFlags) => {
      const { tokenizerStatsCommand } = require('./tokenizer') as typeof import('./tokenizer');
      await tokenizerStatsCommand(folders, options);
    });

  lathe
    .command('merge')
    .description('merge an adapter into its base model as 16-bit weights')
    .requiredOption('--model <path>', 'base model folder, GGUF file or Hub name')
    .requiredOption('--adapter <folder>', 'PEFT adapter folder')
    .requiredOption('--output <folder>', 'where the merged model goes')
    .option('--load-in-4bit', 'merge into the NF4 weights the adapter was trained on')
    .option('--dtype <name>', 'bfloat16 or float32', 'bfloat16')
    .action(
      async (options: { model: string; adapter: string; output: string; loadIn4bit?: boolean; dtype: string }) => {
        const { mergeCommand } = require('./merge') as typeof import('./merge');
        await mergeCommand(options);
      },
    );

  lathe
    .command('convert')
    .description('convert a GGUF file, or a folder with safetensors or PyTorch archives, to a Hugging Face folder')
    .argument('<input>', 'GGUF file or model folder')
    .argument('<output>', 'new folder')
    .option('--dtype <name>', 'bfloat16 or float32', 'bfloat16')
    .option('--tokenizer <path>', "take the tokenizer from this folder instead of the input's own")
    .option('--no-tokenizer', 'weights and config.json alone')
    .addHelpText('after', '\nExample:\n  lathe convert SmolLM2-135M-Instruct.Q4_1.gguf ./SmolLM2-135M-Instruct')
    .action(async (from: string, to: string, options: { dtype: string; tokenizer?: string | boolean }) => {
      const { convertCommand } = require('./convert') as typeof import('./convert');
      await convertCommand(from, to, options);
    });

  lathe
    .command('doctor')
    .description('what this machine has: addon, instruction sets, threads, memory, GPUs')
    .action(async () => {
      const { doctorCommand } = require('./doctor') as typeof import('./doctor');
      await doctorCommand();
    });

  return lathe;
}

function version(): string {
  return (JSON.parse(readFileSync(join(__dirname, '..', '..', 'package.json'), 'utf8')) as { version: string }).version;
}

function rowCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 0) return count;
  throw new InvalidArgumentError('expected a whole number');
}

/** The first argument is a file unless it is already an override; `--config FILE` is how TRL's command line names it. */
function splitConfig(first: string | undefined, rest: string[]): [string | undefined, string[]] {
  if (first === undefined) return [undefined, rest];
  if (first === '--config' && rest.length > 0) return [rest[0], rest.slice(1)];
  const isOverride = first.startsWith('--') || /^[A-Za-z_][\w.-]*=/.test(first);
  return isOverride ? [undefined, [first, ...rest]] : [first, rest];
}

if (require.main === module) {
  program()
    .parseAsync(process.argv)
    .catch((error: unknown) => {
      reportError(error);
      process.exitCode = 1;
    });
}
