/**
 * The JSON Schema of a configuration file (for editors) and the generated reference page, both from the key tables.
 * `scripts/json-schema.ts` writes them to configs/schema.json and docs/configuration.md; a test checks they are current.
 */

import { z } from 'zod';
import type { KeyDefinition } from './key';
import { KEY_GROUPS } from './keys';
import { RETIRED } from './retired';

/** Draft 2020-12. Unknown keys are errors, as they are when the file is read. */
export function configJsonSchema(): Record<string, unknown> {
  const properties: Record<string, unknown> = {};
  for (const { title, keys } of KEY_GROUPS) {
    for (const [name, key] of Object.entries(keys as Record<string, KeyDefinition>)) {
      properties[name] = propertySchema(key, title);
    }
  }
  for (const [name, rule] of Object.entries(RETIRED)) {
    const description = 'to' in rule ? `Retired: write ${rule.to}.` : `No effect: ${rule.dropped}.`;
    properties[name] = { description, deprecated: true };
  }
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'lathe training configuration',
    type: 'object',
    additionalProperties: false,
    properties,
  };
}

function propertySchema(key: KeyDefinition, title: string): Record<string, unknown> {
  const { $schema: _, ...schema } = z.toJSONSchema(key.type.schema, { io: 'input' }) as Record<string, unknown>;
  // A list may be written as one word, a number as text; the reader accepts both, so the schema must as well.
  const accepts = key.type.isList && schema.anyOf === undefined ? { anyOf: [schema, { type: 'string' }] } : schema;
  return {
    ...accepts,
    description: `${key.doc}${statusText(key)} [${title}; ${key.source}]`,
    default: key.default,
    ...(key.support === 'unsupported' ? { deprecated: true } : {}),
  };
}

function statusText(key: KeyDefinition): string {
  if (key.support === 'ignored') return ` No effect: ${key.note ?? ''}.`;
  if (key.support === 'unsupported') return ` Not supported: ${key.note ?? ''}.`;
  return '';
}

/** docs/configuration.md: every key with its default, then the retired spellings. */
export function configReference(): string {
  const lines = [
    '# Configuration',
    '',
    'Generated from `src/train/arguments` by `npx ts-node scripts/json-schema.ts`; do not edit.',
    '',
    "A file is flat YAML with the keys of transformers' `TrainingArguments` and TRL's `SFTConfig`, `ModelConfig`, `ScriptArguments` and",
    "`DatasetMixtureConfig`, with the same meaning and TRL's defaults: a file for `trl sft --config` works with `lathe train`. On the command line",
    '`key=value`, `--key value`, `--flag`, `--no-flag` and `--list a b c` override the file. In the API the names are camelCase. An unknown key is an error.',
    '',
    'Put `# yaml-language-server: $schema=schema.json` at the top of a file in `configs/` and an editor completes and checks the keys.',
  ];
  for (const { title, keys } of KEY_GROUPS) {
    lines.push('', `## ${title}`, '', '| key | default | meaning |', '|---|---|---|');
    for (const [name, key] of Object.entries(keys as Record<string, KeyDefinition>)) {
      lines.push(`| \`${name}\` | ${defaultText(key)} | ${cell(`${key.doc}${statusText(key)}${refusedText(key)}`)} |`);
    }
  }
  lines.push('', '## Retired spellings', '', '| spelling | now |', '|---|---|');
  for (const [name, rule] of Object.entries(RETIRED)) {
    const now = 'to' in rule ? `\`${rule.to}\`${rule.note ? ` (${rule.note})` : ''}` : `no effect: ${rule.dropped}`;
    lines.push(`| \`${name}\` | ${cell(now)} |`);
  }
  return `${lines.join('\n')}\n`;
}

function refusedText(key: KeyDefinition): string {
  const names = Object.keys(key.refused ?? {});
  return names.length === 0 ? '' : ` Not supported: ${names.join(', ')}.`;
}

function defaultText(key: KeyDefinition): string {
  const value = JSON.stringify(key.default);
  const other = 'trainingDefault' in key ? ` (TrainingArguments: ${JSON.stringify(key.trainingDefault)})` : '';
  return cell(`\`${value}\`${other}`);
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
