/**
 * The vCPU thread's half of KVM: an interpreter of guest code in blocks, page tables with the C-bit, CPUID, MSRs,
 * hypercalls and the kvm_run page. It runs in a worker or in the main thread; only this entry reads and writes a guest's
 * private memory, so the VMM half of a host never imports it.
 *
 * ```ts
 * const program = link({ name: 'hello', base: 0xfffffff0, blocks: { reset: (cpu) => cpu.hlt('reset') } });
 * const vcpu = openVcpu(handle, { provider: nodeProvider, program });   // handle = vm.createVcpu(0, cpuid).share()
 * while (vcpu.run() === 0) answer(handle);                                // kvm_run says what to do
 * ```
 *
 * **Code.** A guest program is a table of blocks: straight code in TypeScript that ends in one instruction which jumps or
 * may exit. All state is in registers and guest memory, so that a host that links the same program continues a guest from
 * those alone. Instructions are not bytes in guest memory, and fetches do not go through the page tables.
 *
 * **RIP** is the address of a block. While an exit is pending it stays at the block whose last instruction exited
 * (as RIP stays at VMMCALL on hardware, Linux 5.14 `complete_hypercall_exit`), and the register file says what the next
 * KVM_RUN has to finish and where RIP goes then; that is the model's form of "RIP += 3". A vCPU saved in between is exact.
 * `immediate_exit` with KVM_RUN finishes it without running guest code.
 *
 * **Memory.** Under SEV an access is private if its leaf has the C-bit, page-table walks are always private, and without
 * paging everything is private. Shared accesses see DRAM as it is. What a store did to DRAM is in the dirty log
 * afterwards. Translations are cached until the VM's TLB generation changes; a shootdown waits for vCPUs in mid-block.
 *
 * **Exceptions** (#UD, #GP, #PF, #VC) go through the guest's IDT, if it loaded one; the frame holds the address of the block
 * that faulted. Without a usable gate they are a triple fault, hence KVM_EXIT_SHUTDOWN, as are an access outside of memslots
 * and a store to a read-only slot (MMIO on real KVM); {@link VcpuThread.fault} says why.
 *
 * **SEV-ES.** Once the firmware has encrypted its save area, a vCPU's registers are loaded from there through the guest's key
 * and written back when KVM_RUN ends; the register file that the VMM sees has only what the guest put into its GHCB. CPUID, I/O, most
 * MSRs and VMMCALL raise #VC in the guest, and VMGEXIT hands its GHCB page, or a message in the GHCB MSR, to KVM.
 *
 * **HLT** does not exit: KVM has the vCPU wait for the next tick of a 1 kHz timer. No interrupts are delivered but INIT and
 * SIPI, with KVM_CREATE_IRQCHIP: they start the vCPUs that wait for them.
 *
 * @packageDocumentation
 */
export type { CpuidAnswer } from './cpuid.js';
export type {
	Block,
	CodeFragment,
	GuestCpu,
	GuestProgram,
	IoSize,
	Next,
	RegName,
	Target,
} from './program.js';
export { BLOCK_BYTES, link, ProgramError } from './program.js';
export { openVcpu, type VcpuOptions, type VcpuThread } from './thread.js';
export { TripleFault } from './triple-fault.js';
