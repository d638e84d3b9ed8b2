/** Other ways to write a key than in a file's current spelling: retired spellings, overrides on the command line. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig, parseConfigText, parseOverrides, resolveEntries } from '../../../src/train/arguments';
import { failure, fromYaml } from './from-yaml';

describe('retired spellings', () => {
  test('are renamed with a note', () => {
    const config = fromYaml(
      'evaluation_strategy: epoch\nmax_seq_length: 256\ntorch_dtype: torch.bfloat16\nno_cuda: true\ntokenizer: tok\nwarmup_ratio: 0.1\ngroup_by_length: true',
    );
    expect(config).toMatchObject({
      evalStrategy: 'epoch',
      maxLength: 256,
      dtype: 'bfloat16',
      device: 'cpu',
      tokenizerNameOrPath: 'tok',
      warmupSteps: 0.1,
      trainSamplingStrategy: 'group_by_length',
    });
    expect(config.notes).toHaveLength(7);
    expect(config.notes[0]).toBe('evaluation_strategy is a retired spelling: write eval_strategy');
  });

  test('that did nothing leave a note only', () => {
    expect(fromYaml('overwrite_output_dir: true\nchars_per_token: 3.6').notes).toHaveLength(2);
  });

  test('lose against the current spelling, unless that one only repeats the default', () => {
    expect(fromYaml('max_seq_length: 256\nmax_length: 512').maxLength).toBe(512);
    expect(fromYaml('warmup_ratio: 0.1\nwarmup_steps: 0').warmupSteps).toBe(0.1);
    expect(fromYaml('warmup_ratio: 0.1\nwarmup_steps: 20').warmupSteps).toBe(20);
    expect(fromYaml('warmup_ratio: 0\ngroup_by_length: false').notes).toEqual([]);
  });

  test('a flag with the current spelling overrides a file with the retired one', () => {
    const entries = [
      ...parseConfigText('warmup_ratio: 0.1\nmax_seq_length: 8', 'f'),
      ...parseOverrides(['warmup_steps=0', '--max_length', '16']),
    ];
    expect(resolveEntries(entries)).toMatchObject({ warmupSteps: 0, maxLength: 16 });
  });

  test('values too', () => {
    expect(fromYaml('packing_strategy: bfd-requeue\nloss_type: chunked_nll')).toMatchObject({
      packingStrategy: 'bfd_split',
      lossType: 'nll',
    });
  });
});

describe('overrides', () => {
  test('every form', () => {
    const config = resolveEntries(
      parseOverrides([
        'learning_rate=1e-3', '--max_steps', '-1', '--run-name=1.10', '--packing', '--no-gradient_checkpointing',
        '--lora_target_modules', 'q_proj', 'v_proj', '--max_length', 'null', 'added_special_tokens=<a>,<b>',
        "lr_scheduler_kwargs={num_cycles: 3}", '--report_to', 'none', '--no-cuda', 'lora_modules_to_save=[embed_tokens, lm_head]',
        '--max_length', '77',
      ]),
    ); // prettier-ignore
    expect(config).toMatchObject({
      learningRate: 1e-3,
      maxSteps: -1,
      runName: '1.10',
      packing: true,
      gradientCheckpointing: false,
      loraTargetModules: ['q_proj', 'v_proj'],
      addedSpecialTokens: ['<a>', '<b>'],
      lrSchedulerKwargs: { num_cycles: 3 },
      reportTo: [],
      device: 'cpu',
      loraModulesToSave: ['embed_tokens', 'lm_head'],
      maxLength: 77,
    });
  });

  test('win over the file', () => {
    const folder = mkdtempSync(join(tmpdir(), 'lathe-arguments-'));
    try {
      const path = join(folder, 'train.yaml');
      writeFileSync(path, 'seed: 1\nmax_steps: 5\n');
      expect(loadConfig(path, ['--seed', '2'])).toMatchObject({ seed: 2, maxSteps: 5 });
      expect(failure(() => loadConfig(path, ['--seed', 'x']))).toMatchObject({ code: 'ERR_CONFIG', at: '--seed' });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test.each([['train.yaml'], ['--'], ['-x']])('%s is not one', (argument) => {
    expect(failure(() => parseOverrides([argument]))).toMatchObject({ code: 'ERR_CONFIG', at: 'argument 1' });
  });

  test('a second value of a key that takes one is not swallowed', () => {
    expect(failure(() => parseOverrides(['--seed', '1', '2']))).toMatchObject({ code: 'ERR_CONFIG', at: 'argument 3' });
  });
});
