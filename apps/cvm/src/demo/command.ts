import { Command } from 'commander';
import { FAILED } from '../exit.js';
import { checkDemoOptions, type GivenDemoOptions, MODES, PROFILES, WORKLOADS } from './options.js';
import { openReport } from './report.js';
import { runDemo } from './run.js';

/** `cvm demo`. */
export function demoCommand(exit: (code: number) => void): Command {
	return new Command('demo')
		.description('migrate a live encrypted guest between two host processes, and prove that it arrived')
		.option('--mode <mode>', `how pages travel: ${MODES.join(', ')}`, 'psp')
		.option('--helpers <n>', 'with --mode mh: helpers that work in parallel, each on a mirror vCPU (default: 1)')
		.option('--profile <name>', `with --mode mh: which helper: ${PROFILES.join(', ')} (default: hardened)`)
		.option('--insecure-plaintext', 'needed by --profile rfc-2021, which encrypts nothing')
		.option('--memory <size>', 'guest RAM', '256M')
		.option('--vcpus <n>', 'vCPUs of the guest', '2')
		.option('--workload <name>', `what the guest does: ${Object.keys(WORKLOADS).join(', ')}`, 'random')
		.option('--steps <n>', 'steps after which each vCPU is done (default: a few seconds of work)')
		.option('--hops <n>', 'migrations, one host to the next', '1')
		.option('--policy <bits>', 'guest policy; bit 5: the target must prove to be an SEV platform', '0x20')
		.option('--seed <text>', 'seed of the workload', '1')
		.option('--bandwidth <bytes/s>', 'limit of the migration stream, 0 for none', '0')
		.option('--downtime <ms>', 'longest stop of the guest that is aimed at', '300')
		.option('--from-stream <file>', "a stream that QEMU wrote: that machine's RAM becomes a guest's private memory")
		.option('--firmware <file>', 'a firmware image (OVMF) to launch and measure instead of the model one')
		.option('-o, --output <file>', 'with --mode plain: write a stream that QEMU accepts, instead of a second host')
		.option('--json', 'print one JSON document instead of text')
		.addHelpText(
			'after',
			'\nexample:\n  cvm demo --workload shared-io --vcpus 2 --memory 512M\n  cvm demo --mode mh --helpers 3 --hops 2\n',
		)
		.action(async (given: GivenDemoOptions) => {
			const options = checkDemoOptions(given);
			if (given.insecurePlaintext) {
				process.stderr.write(
					"cvm: warning: --insecure-plaintext: the helper rfc-2021 encrypts nothing: the guest's memory is open to whoever listens\n",
				);
			}
			const report = openReport(options);
			const verified = await runDemo(options, report);
			exit(verified ? 0 : FAILED);
		});
}
