#!/usr/bin/env node
import { createCli } from './cli.js';

process.exitCode = await createCli(process.argv.slice(2));
