/** Reads the material of this folder: one entry a line, fields separated by `|`. */

/** @throws RangeError for a line with another number of fields: a slip of the pen in the material */
export function rows(text: string, fields: number): string[][] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map((line) => {
      const row = line.split('|').map((field) => field.trim());
      if (row.length !== fields || row.some((field) => field === ''))
        throw new RangeError(`expected ${fields} fields, received '${line}'`);
      return row;
    });
}

/** Two-word entries separated by commas: `hot cold, up down`. */
export function pairs(text: string): [string, string][] {
  return text.split(',').map((entry) => {
    const words = entry.trim().split(/\s+/);
    if (words.length !== 2) throw new RangeError(`expected two words, received '${entry}'`);
    return [words[0], words[1]];
  });
}

export function words(text: string): string[] {
  return text
    .split(/[,\n]/)
    .map((word) => word.trim())
    .filter((word) => word !== '');
}
