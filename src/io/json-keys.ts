/**
 * Duplicate keys in JSON text, which JSON.parse silently drops and the safetensors format forbids.
 *
 * One linear pass over text that JSON.parse has already accepted; no recursion, so depth is no danger.
 */

/** The first key that occurs twice in one object, or undefined. @param text valid JSON */
export function findDuplicateKey(text: string): string | undefined {
  // One entry per open container: the keys seen so far, or null for an array.
  const open: (Set<string> | null)[] = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x7b: // {
        open.push(new Set());
        expectKey = true;
        break;
      case 0x5b: // [
        open.push(null);
        expectKey = false;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        expectKey = false;
        break;
      case 0x2c: // ,
        expectKey = open.at(-1) != null;
        break;
      case 0x22: {
        const end = endOfString(text, i);
        if (expectKey) {
          const key = JSON.parse(text.slice(i, end)) as string;
          const keys = open.at(-1)!;
          if (keys.has(key)) return key;
          keys.add(key);
          expectKey = false;
        }
        i = end - 1;
        break;
      }
    }
  }
  return undefined;
}

/** Index after the closing quote of the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (text.charCodeAt(i) !== 0x22) i += text.charCodeAt(i) === 0x5c ? 2 : 1;
  return i + 1;
}
