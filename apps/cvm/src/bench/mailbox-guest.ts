import { type GuestProgram, link } from '@cvm/kvm/vcpu';
import { rfcHandler } from '@cvm/ovmf-mh/firmware';

/** RAM of the guest whose pages go through the mailbox: the handler's memory is at its end. */
export const MAILBOX_RAM = 16 * 2 ** 20;

/**
 * The migration handler of August 2021, and as much firmware as sets it up on the guest's own vCPU, which then stops at a port.
 */
export const mailboxGuest = (): GuestProgram =>
	link(...rfcHandler(), {
		name: 'bench',
		base: 0x10000,
		at: { reset: 0xfffffff0 },
		blocks: {
			reset: (cpu) => {
				cpu.setNum('rsp', 0x90000);
				cpu.setNum('rdi', MAILBOX_RAM);
				return cpu.call('mh.setup', 'bench.end');
			},
			'bench.end': (cpu) => cpu.out(0xf4, 1, 'bench.end'),
		},
	});
