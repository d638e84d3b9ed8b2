/** Stop strings in a stream: earliest match, nothing of it given out, nothing held longer than needed. */
import fc from 'fast-check';
import { StopStrings } from '../../../src/generation/stop-strings';

function feed(stops: string[], pieces: string[]): { given: string[]; rest: string; found: string | null } {
  const s = new StopStrings(stops);
  const given = pieces.map((p) => s.push(p));
  return { given, rest: s.flush(), found: s.found };
}

it('holds back what may be the start of a stop string', () => {
  expect(feed(['###'], ['a#', '#', 'b'])).toEqual({ given: ['a', '', '##b'], rest: '', found: null });
  expect(feed(['###'], ['a#', '##c', 'd'])).toEqual({ given: ['a', '', ''], rest: '', found: '###' });
  expect(feed(['\nUser:'], ['hi\n', 'Us'])).toEqual({ given: ['hi', ''], rest: '\nUs', found: null });
  expect(feed(['aab'], ['aaa', 'b'])).toEqual({ given: ['a', ''], rest: '', found: 'aab' });
  expect(feed([], ['any', 'thing'])).toEqual({ given: ['any', 'thing'], rest: '', found: null });
});

it('cuts before the earliest of several', () => {
  expect(feed(['z', 'xy'], ['ab xyz'])).toEqual({ given: ['ab '], rest: '', found: 'xy' });
});

it('agrees with a search in the whole text, however it is cut into pieces', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 });
  fc.assert(
    fc.property(
      fc.array(letters, { maxLength: 12 }),
      fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), { maxLength: 3 }),
      (pieces, stops) => {
        const { given, rest, found } = feed(stops, pieces);
        // A stream ends at the first piece that completes a stop string; what that piece holds after it does not count.
        let text = '';
        let cut = -1;
        for (const piece of pieces) {
          text += piece;
          cut = Math.min(...stops.map((s) => text.indexOf(s)).filter((i) => i >= 0));
          if (cut !== Infinity) break;
        }
        expect(found !== null).toBe(cut !== Infinity && cut !== -1);
        expect(given.join('') + rest).toBe(found === null ? pieces.join('') : text.slice(0, cut));
      },
    ),
    { numRuns: 2000 },
  );
});
