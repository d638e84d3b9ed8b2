/** Tracing: the one door, what it refuses, and what nodes remember of where they were made. */
import { gradients } from '../../../src/autodiff/grad';
import { LatheError } from '../../../src/errors';
import { printGraph, printNodes } from '../../../src/graph/print';
import type { StateSlot } from '../../../src/graph/tensor';
import {
  atNode,
  checkpointBlock,
  constant,
  inPhase,
  input,
  output,
  readState,
  scope,
  trace,
  updateState,
} from '../../../src/graph/trace';
import { activation, add, scale, scaleBy } from '../../../src/ops/elementwise';
import { matmul } from '../../../src/ops/matmul';
import { reshape, splitCols } from '../../../src/ops/movement';
import { cse } from '../../../src/passes/cse';
import { dce } from '../../../src/passes/dce';
import { dropout } from '../../../src/ops/random';

const code = (value: string, text: string): Error =>
  expect.objectContaining({ code: value, message: expect.stringContaining(text) as string }) as Error;
const slot: StateSlot = { name: 'w', shape: [2, 3], dtype: 'f32', role: 'weights' };

describe('refusals', () => {
  test('an op outside of trace, a trace inside a trace', () => {
    expect(() => readState(slot)).toThrow(code('ERR_TRACE', 'outside of trace()'));
    expect(() => trace('a', () => trace('b', () => undefined))).toThrow(code('ERR_TRACE', "trace('b')"));
  });

  test('a failed trace leaves none open', () => {
    expect(() =>
      trace('a', () => {
        throw new Error('mine');
      }),
    ).toThrow('mine');
    expect(trace('b', () => output('y', input('x', [1], 'f32'))).nodes).toHaveLength(1);
  });

  test('two updates of a slot, an update of another type', () => {
    expect(() =>
      trace('t', () => {
        updateState(slot, readState(slot));
        updateState(slot, readState(slot));
      }),
    ).toThrow(code('ERR_TRACE', "'w' is updated twice"));
    expect(() => trace('t', () => updateState(slot, input('x', [3, 2], 'f32')))).toThrow(
      code('ERR_TRACE', 'expected f32[2, 3], received f32[3, 2]'),
    );
  });

  test('a wrong shape names the module it happened in, also after an inner scope', () => {
    const graph = (): unknown =>
      trace('t', () =>
        scope('model.layers.0', () => {
          scope('model.layers.0.mlp', () => scale(input('x', [2, 3], 'f32'), 2));
          add(input('x', [2, 3], 'f32'), input('y', [3, 2], 'f32'));
        }),
      );
    expect(graph).toThrow(code('ERR_SHAPE', '(at model.layers.0)'));
    expect(graph).toThrow(expect.objectContaining({ at: 'model.layers.0' }));
  });

  test('whatever goes wrong while a module is described names the module, once, with its remedy', () => {
    const failing = (inside: () => void): unknown =>
      trace('step', () => scope('model', () => scope('model.norm', inside)));
    const cases: [() => void, RegExp][] = [
      // Not by a shape rule.
      [
        () => void activation(input('x', [4], 'f32'), 'rely' as 'relu'),
        /^\[activation\] unknown activation 'rely' \(at model\.norm\): use one of [^(]*$/,
      ],
      [() => updateState(slot, input('x', [3, 2], 'f32')), /received f32\[3, 2\] \(at model\.norm\)$/],
      [
        () => {
          throw new LatheError('ERR_CONFIG', 'mine', { at: 'config.json', remedy: 'mend it' });
        },
        /^mine \(at config\.json\): mend it$/,
      ],
      [
        () => {
          throw new TypeError('not ours');
        },
        /^not ours$/,
      ],
    ];
    for (const [inside, message] of cases)
      expect(() => failing(inside)).toThrow(
        expect.objectContaining({ message: expect.stringMatching(message) as string }),
      );
  });

  test('without a module the program is named; a backward pass names the module that it differentiates', () => {
    expect(() => trace('step', () => updateState(slot, input('x', [3, 2], 'f32')))).toThrow(
      code('ERR_TRACE', "(at program 'step')"),
    );
    const differentiate = (): unknown =>
      trace('step', () => {
        const x = input('x', [1], 'f32');
        const y = scope('model.head', () => scaleBy(readState({ ...slot, shape: [1] }), x));
        gradients(y, [x]);
      });
    expect(differentiate).toThrow(
      code('ERR_UNSUPPORTED', '[scale_by] is not differentiable with respect to its scalar (at model.head)'),
    );
  });
});

test('inputs and state are leaves that are made once', () => {
  const graph = trace('t', () => {
    expect(input('x', [2, 3], 'f32')).toBe(input('x', [2, 3], 'f32'));
    expect(readState(slot)).toBe(readState({ ...slot }));
    output('y', add(input('x', [2, 3], 'f32'), readState(slot)));
  });
  expect(graph.nodes.map((n) => n.kind)).toEqual(['input', 'state', 'op']);
});

test('nodes carry path, block and phase; derived ones take them over', () => {
  const graph = trace('t', () => {
    const x = input('x', [4], 'f32');
    const y = scope('a.b', () => checkpointBlock('block', () => scale(x, 2)));
    const z = inPhase('backward', () => atNode(y.node, () => scale(y, 3)));
    output('z', scale(z, 4));
  });
  expect(graph.nodes.slice(1).map((n) => [n.where, n.block, n.phase])).toEqual([
    ['a.b', 'block', 'forward'],
    ['a.b', 'block', 'backward'],
    ['', '', 'forward'],
  ]);
});

test('printed graphs: names, views, attributes, phases, updates', () => {
  const graph = trace('demo', () => {
    const x = input('x', [2, 3], 'f32');
    const one = constant(new Uint8Array(24), [2, 3], 'f32');
    const h = scope('model.mlp', () => activation(add(x, one), 'silu'));
    const [left, right] = splitCols(h, [1, 2]);
    const flat = reshape(right, [4]);
    const y = inPhase('backward', () => scale(flat, 1 / 3));
    output('left', left);
    output('y', y);
    updateState(slot, matmul(h, input('many', [3, 3], 'f32'), { compute: 'f32', dtype: 'f32' }));
  });
  expect(printGraph(graph)).toBe(`graph demo
%0: f32[2,3] = constant
%1: f32[2,3] = add($x, %0) # model.mlp
%2: f32[2,3] = activation(%1) {kind=silu} # model.mlp
%3: f32[2,1], %4: f32[2,2] = split_cols(%2) {sizes=[1,2]}
%5: f32[4] = reshape(%4) {shape=[4]}
%6: f32[4] = scale(%5) {factor=0.333333333} !backward
%7: f32[2,3] = matmul(%2, $many) {trans_a=[0] trans_b=[0] quant=[0] rows=[3] cols=[3] alpha=1 bias=0 addend=0 compute=f32 dtype=f32}
update @w <- %7
output left = %3
output y = %6
`);
  // Without the view's line, its name stands for what it shows.
  const nodes = graph.nodes.filter((n) => !n.op?.view);
  expect(printNodes(nodes, graph)).toContain('scale(%4)');
});

describe('passes', () => {
  test('dce keeps what outputs and updates need', () => {
    const graph = trace('t', () => {
      const x = input('x', [2, 3], 'f32');
      scale(x, 7);
      updateState(slot, scale(x, 2));
      output('y', scale(x, 3));
      scale(input('unused', [1], 'f32'), 2);
    });
    expect(dce(graph).nodes.map((n) => n.input?.name ?? n.attributes.factor)).toEqual(['x', 2, 3]);
  });

  test('cse merges equal values, through chains, and not what differs in an attribute', () => {
    const graph = trace('t', () => {
      const x = input('x', [4], 'f32');
      const chain = (factor: number) => activation(scale(x, factor), 'tanh');
      output('a', add(chain(2), chain(2)));
      output('b', chain(3));
    });
    const after = cse(graph);
    expect(after.nodes.filter((n) => n.op?.name === 'scale')).toHaveLength(2);
    expect(after.nodes.filter((n) => n.op?.name === 'activation')).toHaveLength(2);
    const sum = after.outputs.get('a')!.node;
    expect(sum.inputs[0]).toBe(sum.inputs[1]);
  });

  test('cse merges equal masks and keeps different sites', () => {
    const graph = trace('t', () => {
      const [x, rng] = [input('x', [4], 'f32'), input('rng', [4], 'i32')];
      output('same', add(dropout(x, rng, 0.5, 'site'), dropout(x, rng, 0.5, 'site')));
      output('other', dropout(x, rng, 0.5, 'site', 1));
    });
    expect(cse(graph).nodes.filter((n) => n.op?.name === 'dropout')).toHaveLength(2);
  });
});
