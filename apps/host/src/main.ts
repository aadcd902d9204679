#!/usr/bin/env node
/** `cvm-host`: a host process with QEMU's command line. */
import { runHost } from './cli.js';

process.exitCode = await runHost(process.argv.slice(2), 'cvm-host');
