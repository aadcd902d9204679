import type { VmContext } from '../vm/context.js';
import { type SevContext, unbindAsid } from './context.js';
import { publishSev } from './init.js';

/*
 * Who holds whom: a VM lives as long as its descriptor is open, and as long as a mirror shares its context. A mirror holds its
 * owner, the owner knows its mirrors; a mirror has no mirrors. So any order of closing is safe.
 */

/** The VM's descriptor is closed: what it holds goes back now, or when its last mirror goes. Once per VM. */
export function closeContext(sev: SevContext): void {
	sev.closed = true;
	freeIfUnused(sev);
}

function freeIfUnused(sev: SevContext): void {
	if (sev.closed && sev.mirrors.size === 0) sev.free();
}

/**
 * sev_vm_destroy of Linux arch/x86/kvm/svm/sev.c: the end of a VM's encryption context. That of a mirror is its owner's: only
 * the reference goes, neither the guest in the firmware nor the ASID, and with the last reference a closed owner.
 */
export function destroyContext(vm: VmContext): void {
	const { sev, host } = vm;
	const { owner, asid, driver, memory } = sev;
	if (!sev.active) return;
	sev.active = false;
	sev.asid = 0;
	publishSev(vm);
	if (owner !== undefined) {
		sev.owner = undefined;
		sev.handle = 0;
		sev.hasDevice = false;
		owner.mirrors.delete(sev);
		freeIfUnused(owner);
		return;
	}
	// Before the pages go back: no cache line of the guest may be written back over their next owner.
	driver.machine.wbinvd();
	unbindAsid(sev);
	for (const { spa, size } of sev.regions.splice(0)) memory.unpin(spa, size);
	(sev.es ? host.esAsids : host.asids).release(asid);
}
