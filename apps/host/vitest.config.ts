import { defineConfig } from 'vitest/config';
import { sources } from '../../vitest.base.js';

export default defineConfig(sources({ globalSetup: '../../tools/bundle.mjs' }));
