/**
 * The word that a vCPU's thread and the VMM's main thread hand to each other; each side sets it, the other waits on it.
 *
 * | from    | to      | by     | when                                                        |
 * | ------- | ------- | ------ | ----------------------------------------------------------- |
 * | parked  | running | main   | the VM is resumed                                           |
 * | running | parked  | thread | KVM_RUN returned -EINTR: it was kicked                      |
 * | running | parked  | main   | a mirror vCPU is to rest                                    |
 * | running | exited  | thread | KVM_RUN returned with an exit that the VMM must answer      |
 * | exited  | running | main   | the exit is answered in kvm_run                             |
 * | exited  | halted  | main   | the exit has no answer: shutdown, failed entry              |
 * | any     | quit    | main   | the process ends                                            |
 */
export const VcpuState = { parked: 0, running: 1, exited: 2, halted: 3, quit: 4 } as const;
export type VcpuState = (typeof VcpuState)[keyof typeof VcpuState];
