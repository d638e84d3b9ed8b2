/** Writes configs/schema.json and docs/configuration.md from the key tables: `npx ts-node scripts/json-schema.ts`. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { configJsonSchema, configReference } from '../src/train/arguments/json-schema';

const root = join(__dirname, '..');
writeFileSync(join(root, 'configs', 'schema.json'), `${JSON.stringify(configJsonSchema(), null, 1)}\n`);
writeFileSync(join(root, 'docs', 'configuration.md'), configReference());
