#!/usr/bin/env node
import { createCli } from './cli.js';
import { FAILED } from './exit.js';

/** What a shell reports for a program that SIGPIPE ended, as it ends programs whose reader has gone (`cvm demo | head`). */
const BROKEN_PIPE = 141;

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
	if (error.code === 'EPIPE') process.exit(BROKEN_PIPE);
	process.stderr.write(`cvm: standard output: ${error.message}\n`);
	process.exit(FAILED);
});
process.exitCode = await createCli(process.argv.slice(2));
