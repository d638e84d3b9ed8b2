/** The commands, in this process: what they print, write and refuse. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { knownConfig } from '../../../src/models/known-configs';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { GOLDEN } from '../../train/golden';
import { writeConfig, writeModel, writeRows } from '../../train/tiny-folder';
import { temporaryFolder } from '../../train/tiny-run';
import { lathe, output } from './lathe';

// Planning an 8B model is seconds of compiling; on a busy machine more.
jest.setTimeout(180_000);

const base = temporaryFolder('cli');
const paths = { model: join(base, 'model'), data: join(base, 'data'), out: join(base, 'out') };
const config = join(base, 'run.yaml');
const PLAN_CONFIG = join(__dirname, '../../../configs/llama3-8b-qlora.yaml');

const saved = process.exitCode;
beforeAll(async () => {
  await writeModel(paths.model);
  writeRows(paths.data);
  writeConfig(
    config,
    paths,
    'eval_strategy: steps\neval_steps: 2\nsave_steps: 2\neval_on_start: true\nreport_to: tensorboard\n',
  );
});
afterEach(() => {
  process.exitCode = saved;
});

describe('help', () => {
  const COMMANDS = [
    'train',
    'plan',
    'generate',
    'eval',
    'eval passk',
    'data preview',
    'tokenizer train',
    'tokenizer stats',
    'merge',
    'convert',
    'doctor',
  ];

  test('lathe --help lists every command', async () => {
    const help = await output('--help');
    for (const name of COMMANDS) expect(help).toContain(`  ${name.split(' ')[0]}`);
    expect(help).toContain('Start with: lathe train');
  });

  test.each(COMMANDS)('lathe %s --help explains every flag', async (name) => {
    const help = await output(...name.split(' '), '--help');
    expect(help).toContain(`Usage: lathe ${name}`);
    const options = help
      .slice(help.indexOf('Options:'))
      .split('\n')
      .filter((line) => /^ {2}-/.test(line));
    for (const line of options) expect(line.trim()).toMatch(/^(-\w, )?--[\w-]+( <[\w.]+>)?( {2,}\S|$)/);
  });

  test('lathe --version', async () => {
    expect(await output('--version')).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('an unknown command suggests one', async () => {
    const { error, err } = await lathe('trian');
    expect(error?.message).toContain("unknown command 'trian'");
    expect(err).toContain('Did you mean train?');
  });
});

describe('plan', () => {
  interface Plan {
    peak_bytes: number;
    by_class: Record<string, number>;
    flops_per_token: number;
    live_at_peak: { where: string; op: string; dtype: string; shape: number[]; bytes: number }[];
    remedies: { change: string; peak_bytes: number; saves_bytes: number }[];
    [key: string]: unknown;
  }
  /** Llama 3 8B with two layers: plans in a fraction of the time. */
  const shallow = (): string[] => {
    const dir = join(base, 'shallow');
    mkdirSync(dir, { recursive: true });
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({ ...knownConfig('meta-llama/Meta-Llama-3-8B'), num_hidden_layers: 2 }),
    );
    return [`model_name_or_path=${dir}`];
  };
  const plan = async (...args: string[]): Promise<Plan> => JSON.parse(await output('plan', ...args, '--json')) as Plan;

  test('Llama 3 8B on an H200, offline, as JSON', async () => {
    const p = await plan(PLAN_CONFIG, '--device', 'h200');
    expect(Object.keys(p)).toEqual(
      expect.arrayContaining([
        'device',
        'peak_bytes',
        'fits',
        'by_class',
        'flops_per_token',
        'live_at_peak',
        'remedies',
      ]),
    );
    expect(p).toMatchObject({ device: 'h200', fits: true });
    expect(Object.keys(p.by_class)).toEqual([
      'weights',
      'quantization',
      'adapter',
      'gradients',
      'optimizer',
      'kv_cache',
      'activations',
      'logits',
      'scratch',
    ]);
    expect(Object.values(p.by_class).reduce((a, b) => a + b, 0)).toBe(p.peak_bytes);
    // 41,943,040 parameters of rank 16 on the seven modules, in fp32, and as many gradients.
    expect(p.by_class.adapter).toBe(4 * 41_943_040);
    expect(p.by_class.gradients).toBe(4 * 41_943_040);
    // NF4 codes of 6.979e9 weights, embedding and head in bf16, norms.
    expect(p.by_class.weights / 1e9).toBeCloseTo(6.979 / 2 + 2 * 2 * 128_256 * 4096 * 1e-9, 2);
    // Forward and backward through a frozen base cost 4 FLOPs a weight and token; attention and the adapter come on top.
    expect(p.flops_per_token / 1e9).toBeGreaterThan(4 * 7.5);
    expect(p.flops_per_token / 1e9).toBeLessThan(6 * 8);
    const bytes = p.live_at_peak.map((t) => t.bytes);
    expect(bytes).toEqual([...bytes].sort((a, b) => b - a));
    expect(p.live_at_peak[0]).toMatchObject({
      where: expect.any(String),
      op: expect.any(String),
      dtype: 'bf16',
      shape: [4096, 14336],
    });
    for (const r of p.remedies) expect(r.peak_bytes + r.saves_bytes).toBe(p.peak_bytes);
    expect(p.remedies.map((r) => r.change).join()).toMatch(/plan_policy: block/);
  });

  test('overrides count, in both spellings; a remedy does what it says', async () => {
    const common = [...shallow(), '--device', 'cpu', 'gradient_checkpointing=false', '--max_length', '256'];
    const full = await plan(PLAN_CONFIG, ...common);
    const half = full.remedies.find((r) => r.change === 'max_length: 128')!;
    expect((await plan(PLAN_CONFIG, ...common, 'max_length=128')).peak_bytes).toBe(half.peak_bytes);
  });

  test('for people: classes, remedies, and the largest tensors with layers counted together', async () => {
    const text = await output('plan', PLAN_CONFIG, ...shallow(), '--device', 'h200');
    expect(text).toMatch(/memory plan for h200: peak [\d.]+ GiB/);
    expect(text).toMatch(/^ {2}weights +[\d.]+ GiB/m);
    expect(text).toMatch(/2 x bf16\[4096, 14336\] {2}matmul model\.layers\.\*\.mlp\.gate_proj/);
    expect(process.exitCode).toBe(saved);
  });

  test('what does not fit says so and gives exit code 2', async () => {
    const text = await output(
      'plan',
      PLAN_CONFIG,
      ...shallow(),
      '--device',
      't4',
      'memory_limit=2GiB',
      'load_in_4bit=false',
    );
    expect(text).toMatch(/load_in_4bit: true +saves/);
    expect(text).toContain('does not fit t4 (2.00 GiB)');
    expect(process.exitCode).toBe(2);
  });

  test('an unknown device, and a model that is not bundled', async () => {
    expect((await lathe('plan', PLAN_CONFIG, '--device', 'h20')).error).toMatchObject({
      code: 'ERR_DEVICE',
      message: expect.stringContaining("did you mean 'h200'?"),
    });
    const online = process.env.HF_HUB_OFFLINE;
    process.env.HF_HUB_OFFLINE = '1';
    expect((await lathe('plan', PLAN_CONFIG, 'model_name_or_path=nobody/nothing')).error).toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/not in the Hugging Face cache.*Meta-Llama-3-8B/),
    });
    expect((await lathe('plan', PLAN_CONFIG, 'model_name_or_path=./nothing')).error).toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining('Meta-Llama-3-8B'),
    });
    if (online === undefined) delete process.env.HF_HUB_OFFLINE;
    else process.env.HF_HUB_OFFLINE = online;
  });
});

describe('train and what follows it', () => {
  test('train: plan, progress, evaluation before and after, where things are', async () => {
    const { out, error } = await lathe('train', config, 'learning_rate=5e-3', '--max_steps', '6');
    expect(error).toBeUndefined();
    expect(out).toContain('trainable params: 896');
    expect(out).toMatch(/memory plan for cpu: peak/);
    expect(out).toMatch(/^step 0\/6 {2}eval loss/m);
    expect(out).toMatch(/^step 6\/6 {2}loss [\d.]+ {2}lr/m);
    expect(out).toMatch(/eval loss [\d.]+ -> [\d.]+ \(-[\d.]+ %\)/);
    expect(out).toContain(join(paths.out, 'events.jsonl'));
    const kept = readdirSync(paths.out);
    expect(kept).toEqual(
      expect.arrayContaining([
        'adapter_config.json',
        'adapter_model.safetensors',
        'checkpoint-2',
        'checkpoint-6',
        'events.jsonl',
        'loss-curve.png',
        'loss-curve.svg',
        'runs',
        'tokenizer.json',
      ]),
    );
    expect(kept.filter((name) => name.startsWith('.'))).toEqual([]);
    const args = JSON.parse(readFileSync(join(paths.out, 'checkpoint-6/training_args.json'), 'utf8')) as Record<
      string,
      unknown
    >;
    expect(args).toMatchObject({ learning_rate: 5e-3, max_steps: 6 });
  });

  test('TensorBoard files have a folder of their run and the tags of transformers', () => {
    const [run, ...others] = readdirSync(join(paths.out, 'runs'));
    expect(others).toEqual([]);
    expect(run).toMatch(/^[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_/);
    const [file] = readdirSync(join(paths.out, 'runs', run));
    const text = readFileSync(join(paths.out, 'runs', run, file), 'latin1');
    for (const tag of [
      'train/loss',
      'train/grad_norm',
      'train/learning_rate',
      'train/epoch',
      'train/num_tokens',
      'train/mean_token_accuracy',
      'eval/loss',
      'eval/runtime',
      'eval/samples_per_second',
      'train/train_loss',
      'train/train_runtime',
      'train/total_flos',
      'args/text_summary',
    ]) {
      expect([tag, text.includes(tag)]).toEqual([tag, true]);
    }
    expect(text).not.toContain('train/step');
  });

  test('eval --json with and without the adapter', async () => {
    const [plain, adapted] = [
      JSON.parse(await output('eval', config, '--json')) as Record<string, number>,
      JSON.parse(await output('eval', config, `adapter_name_or_path=${paths.out}`, '--json')) as Record<string, number>,
    ];
    expect(Object.keys(plain)).toEqual([
      'eval_loss',
      'eval_perplexity',
      'eval_mean_token_accuracy',
      'eval_entropy',
      'eval_samples',
      'eval_tokens',
      'eval_labels',
      'eval_runtime',
      'device',
    ]);
    expect(plain.eval_perplexity).toBeCloseTo(Math.exp(plain.eval_loss), 6);
    expect(plain).toMatchObject({ eval_samples: 3 });
    expect(adapted.eval_loss).toBeLessThan(plain.eval_loss);
    // The run's own last evaluation measured the same thing.
    const state = JSON.parse(readFileSync(join(paths.out, 'checkpoint-6/trainer_state.json'), 'utf8')) as {
      log_history: Record<string, number>[];
    };
    const last = state.log_history.filter((e) => e.eval_loss !== undefined).at(-1)!;
    expect(adapted.eval_loss).toBeCloseTo(last.eval_loss, 5);
    expect(await output('eval', config)).toMatch(/^eval loss [\d.]+ {2}perplexity [\d.]+ {2}token accuracy/);
  });

  test('data preview tells trained tokens from masked ones', async () => {
    const text = await output('data', 'preview', config, '-n', '2');
    expect(text.match(/train\.jsonl:\d+: \d+ tokens, \d+ trained/g)).toHaveLength(2);
    expect(text).toContain('⟦This is about red.<|endoftext|>⟧');
    expect(text).toContain('doctor: nothing found');
    expect((await lathe('data', 'preview', config, '-n', 'x')).error?.message).toContain('expected a whole number');
  });

  test('generate, as text and as JSON', async () => {
    const common = ['--model', paths.model, '--prompt', 'Say hi', '--max-new-tokens', '6'];
    const text = await output('generate', ...common);
    const json = JSON.parse(await output('generate', ...common, '--json')) as {
      prompt: string;
      text: string;
      tokens: number[];
      finish_reason: string;
    };
    expect(json).toMatchObject({ prompt: 'Say hi', finish_reason: 'length' });
    expect(json.tokens).toHaveLength(6);
    expect(text.trimEnd()).toBe(json.text);
    const drawn = await output(
      'generate',
      ...common,
      '--do-sample',
      '--seed',
      '3',
      '--num-return-sequences',
      '2',
      '--json',
    );
    expect(drawn.trim().split('\n')).toHaveLength(2);
    expect(
      await output('generate', ...common, '--do-sample', '--seed', '3', '--num-return-sequences', '2', '--json'),
    ).toBe(drawn);
    expect((await lathe('generate', ...common, '--top-k', 'many')).error).toMatchObject({
      code: 'ERR_CONFIG',
      message: "--top-k expected a number, received 'many'",
    });
    expect((await lathe('generate', '--prompt', 'x')).error?.message).toContain("required option '--model <path>'");
  });

  test('merge: a dense folder that says what base and adapter say together', async () => {
    const merged = join(base, 'merged');
    expect(
      await output('merge', '--model', paths.model, '--adapter', paths.out, '--output', merged, '--dtype', 'float32'),
    ).toContain('149,664 parameters');
    expect(readdirSync(merged).sort()).toEqual([
      'config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const common = ['--prompt', 'Say something about tea.', '--alpaca', '--max-new-tokens', '6'];
    expect(await output('generate', '--model', merged, ...common)).toBe(
      await output('generate', '--model', paths.model, '--adapter', paths.out, ...common),
    );
    expect(
      (await lathe('merge', '--model', paths.model, '--adapter', paths.out, '--output', merged, '--dtype', 'int8'))
        .error,
    ).toMatchObject({ code: 'ERR_CONFIG' });
  });

  test('merge over another model: only the merged one is left, and it is the one that is opened', async () => {
    const [merged, over] = [join(base, 'merged'), join(base, 'over')];
    const other = await AutoModelForCausalLM.fromPretrained(paths.model);
    await other.savePretrained(over, { maxShardBytes: 200_000 });
    await other.close();
    for (const [name, text] of [
      ['chat_template.jinja', 'of another model'],
      ['notes.txt', 'mine'],
      ['pytorch_model.bin', 'mine'],
    ])
      writeFileSync(join(over, name), text);
    expect(readdirSync(over).filter((name) => name.startsWith('model')).length).toBeGreaterThan(2);
    await output('merge', '--model', paths.model, '--adapter', paths.out, '--output', over, '--dtype', 'float32');
    expect(readdirSync(over).sort()).toEqual([...readdirSync(merged), 'notes.txt', 'pytorch_model.bin'].sort());
    for (const name of readdirSync(merged))
      expect([name, readFileSync(join(over, name)).equals(readFileSync(join(merged, name)))]).toEqual([name, true]);
  });

  test('no command writes where something would be lost or opened instead', async () => {
    const contents = (dir: string): [string, string][] =>
      readdirSync(dir, { withFileTypes: true })
        .filter((e) => e.isFile())
        .map(({ name }) => [name, readFileSync(join(dir, name), 'base64')]);
    const before = [contents(paths.model), contents(paths.out)];
    const full = join(base, 'full.yaml');
    writeConfig(full, { ...paths, out: paths.out }, 'report_to: none\n');
    const refused = async (code: string, remedy: RegExp, ...args: string[]): Promise<void> => {
      expect([args[0], (await lathe(...args)).error]).toEqual([
        args[0],
        expect.objectContaining({ code, message: expect.stringMatching(remedy) as string }),
      ]);
    };
    await refused(
      'ERR_CHECKPOINT',
      /adapter_config\.json.*choose another output folder/s,
      'merge',
      '--model',
      paths.model,
      '--adapter',
      paths.out,
      '--output',
      paths.out,
    );
    await refused(
      'ERR_CONFIG',
      /original weights would be lost.*choose another output folder/s,
      'merge',
      '--model',
      paths.model,
      '--adapter',
      paths.out,
      '--output',
      paths.model,
    );
    await refused(
      'ERR_CONFIG',
      /original weights would be lost.*choose another output folder/s,
      'convert',
      paths.model,
      join(paths.model, '.'),
    );
    await refused(
      'ERR_CONFIG',
      /found model\.safetensors.*choose another folder/s,
      'tokenizer',
      'train',
      '--vocab-size',
      '300',
      '--output',
      paths.model,
      '--files',
      join(paths.data, 'train.jsonl'),
    );
    // Before the first step, not after the last.
    await refused(
      'ERR_CHECKPOINT',
      /adapter_config\.json.*choose another output folder/s,
      'train',
      full,
      'use_peft=false',
    );
    await refused(
      'ERR_CHECKPOINT',
      /model\.safetensors.*choose another output folder/s,
      'train',
      full,
      `output_dir=${paths.model}`,
    );
    expect([contents(paths.model), contents(paths.out)]).toEqual(before);
  });
});

describe('convert', () => {
  const gguf = join(GOLDEN, 'io/tiny-llama.gguf');

  test('a GGUF file without a tokenizer leaves nothing, and says how to go on', async () => {
    const { error } = await lathe('convert', gguf, join(base, 'none'));
    expect(error).toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringMatching(
        /tokenizer\.ggml\.model.*tiny-llama\.gguf\): give --tokenizer FOLDER, or --no-tokenizer/,
      ),
    });
    expect(existsSync(join(base, 'none'))).toBe(false);
  });

  test('the weights alone, or with a tokenizer from elsewhere', async () => {
    expect(await output('convert', gguf, join(base, 'weights'), '--no-tokenizer')).toMatch(
      /19,872 parameters, 3 files/,
    );
    expect(readdirSync(join(base, 'weights')).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
    ]);
    await output('convert', gguf, join(base, 'both'), '--tokenizer', paths.model, '--dtype', 'float32');
    expect(readdirSync(join(base, 'both'))).toEqual(
      expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json']),
    );
    const model = await AutoModelForCausalLM.fromPretrained(join(base, 'both'));
    expect(model.vocabSize).toBe(40);
    await model.close();
  });

  test('a file that is not there', async () => {
    expect((await lathe('convert', join(base, 'no.gguf'), join(base, 'no'))).error).toMatchObject({
      message: expect.stringContaining(join(base, 'no.gguf')),
    });
    expect(existsSync(join(base, 'no'))).toBe(false);
  });
});

test('doctor names the parts of the machine', async () => {
  const text = await output('doctor');
  for (const word of ['node', 'memory', 'addon', 'isa', 'threads', 'CUDA', 'python'])
    expect(text).toMatch(new RegExp(`^${word}`, 'm'));
});
