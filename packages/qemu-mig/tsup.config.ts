import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(library({ index: 'src/index.ts', image: 'src/image.ts', testing: 'src/testing.ts' }));
