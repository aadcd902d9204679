import type { Block, GuestCpu, Next } from '../vcpu/program.js';
import { type KernelConfig, pop, push } from './kernel-data.js';

/**
 * What Linux logs about live migration: patch v12 12/13; Linux 5.16 arch/x86/kernel/kvm.c and arch/x86/mm/mem_encrypt.c.
 * `%s` is the name of the late initcall, which differs between the two.
 */
const MESSAGES = {
	enabled: 'KVM enable live migration',
	unsupported: 'KVM enable live migration feature unsupported',
	noRuntime: 'kvm-guest: %s : EFI runtime services are not enabled',
	notFound: 'kvm-guest: %s : EFI live migration variable not found',
	unreadable: 'kvm-guest: %s : EFI variable retrieval failed',
	disabled: 'kvm-guest: %s: live migration disabled in EFI',
	efiEnabled: 'kvm-guest: %s : live migration enabled in EFI',
	missingLeaf: 'kpte lookup for vaddr',
} as const;
export type Message = keyof typeof MESSAGES;
const NAMES = Object.keys(MESSAGES) as readonly Message[];

/** First serial port's data register. */
const COM1 = 0x3f8;

/** Logs a line, if the kernel was built to, and goes on at `next`. Needs a stack; clobbers RAX and RDI. */
export function say({ printk }: KernelConfig, cpu: GuestCpu, message: Message, next: string): Next {
	if (!printk) return cpu.jump(next);
	cpu.setNum('rdi', NAMES.indexOf(message));
	return cpu.call('printk', next);
}

/**
 * `console_putc`: RDI = character, to the serial port. `printk`: RDI = number of the message. The timestamps of the real
 * console are left out: a guest's output is the same in every run.
 */
export function consoleBlocks({ kernel }: KernelConfig): Record<string, Block> {
	const initcall = kernel.abi === 'v12' ? 'setup_kvm_sev_migration' : 'setup_efi_kvm_sev_migration';
	const lines = NAMES.map((name) => `${MESSAGES[name].replace('%s', initcall)}\n`);
	return {
		console_putc: (cpu) => {
			cpu.setReg('rax', cpu.reg('rdi'));
			return cpu.out(COM1, 1, 'console_done');
		},
		console_done: (cpu) => cpu.ret(),
		printk: (cpu) => {
			push(cpu, 'r12', 'r13');
			cpu.setReg('r12', cpu.reg('rdi'));
			cpu.setNum('r13', 0);
			return cpu.jump('printk_char');
		},
		printk_char: (cpu) => {
			const line = lines[cpu.num('r12')] ?? '';
			const at = cpu.num('r13');
			if (at >= line.length) {
				pop(cpu, 'r12', 'r13');
				return cpu.ret();
			}
			cpu.setNum('r13', at + 1);
			cpu.setNum('rax', line.charCodeAt(at));
			return cpu.out(COM1, 1, 'printk_char');
		},
	};
}
