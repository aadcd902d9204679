import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library(
		{ main: 'src/main.ts', 'dirty-vcpu': 'src/bench/dirty-vcpu.ts', 'mailbox-vcpu': 'src/bench/mailbox-vcpu.ts' },
		{ platform: 'node', dts: false },
	),
);
