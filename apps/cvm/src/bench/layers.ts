import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type Kvm, type Vm } from '@cvm/kvm';
import { gpa, type Hva, PAGE_SIZE } from '@cvm/layout';
import { createSevMachine, type SevMachine } from '@cvm/sev-hw';
import { createKeyServer } from '@cvm/sev-hw/fake-amd';
import { openMemoryController } from '@cvm/sev-hw/silicon';

const MIB = 2 ** 20;
/** Guest memory that the layers are measured over: more than any cache holds. */
const GUEST = 64 * MIB;
const BATCH = 64;
const HEADER = 52;
const STRIDE = 72 + PAGE_SIZE;

/** Runs `work` for about a second. @returns pages per second */
export function pagesPerSecond(pagesPerRun: number, work: () => void): number {
	work(); // warm: code compiled, memory touched
	const start = performance.now();
	let runs = 0;
	do {
		work();
		runs++;
	} while (performance.now() - start < 1000);
	return (runs * pagesPerRun * 1000) / (performance.now() - start);
}

interface Side {
	readonly machine: SevMachine;
	readonly kvm: Kvm;
	readonly vm: Vm;
	readonly ram: { readonly hva: Hva; readonly bytes: Uint8Array; readonly spa: number };
}

function side(): Side {
	const machine = createSevMachine({
		dramBytes: GUEST + 8 * MIB,
		provider: nodeProvider,
		random: systemRandom(),
		chipSeed: 'bench',
	});
	const kvm = createKvm({ machine });
	const vm = kvm.createVm({ sev: true });
	const ram = kvm.memory.mmap(GUEST);
	const region = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: GUEST, userspaceAddr: ram.hva };
	expect0('memslot', vm.setUserMemoryRegion(region));
	expect0('KVM_SEV_INIT', vm.sev.init().ret);
	expect0('region', vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: GUEST }));
	return { machine, kvm, vm, ram };
}

function expect0(what: string, ret: number): void {
	if (ret !== 0) throw new Error(`${what}: ret=${ret}`);
}

/** The page engine, then the firmware's SEND and RECEIVE of 4 KiB pages in batches: pages per second each. */
export function measureFirmware(): { engine: number; send: number; receive: number } {
	const source = side();
	const target = side();
	expect0('LAUNCH_START', source.vm.sev.launchStart({ policy: 0 }).ret);
	expect0('LAUNCH_UPDATE_DATA', source.vm.sev.launchUpdateData({ uaddr: source.ram.hva, len: GUEST }).ret);
	expect0('LAUNCH_MEASURE', source.vm.sev.launchMeasure().ret);
	expect0('LAUNCH_FINISH', source.vm.sev.launchFinish().ret);
	const asid = source.machine.cpuid.minSevNoEsAsid;
	const memory = openMemoryController(source.machine.silicon, nodeProvider);
	const page = new Uint8Array(PAGE_SIZE * BATCH);
	const engine = pagesPerSecond(BATCH, () => memory.write(asid, source.ram.spa, page));

	const keyServer = createKeyServer(nodeProvider);
	const { pdh, chain } = target.kvm.sevDevice.pdhCertExport();
	const platCerts = chain.slice();
	platCerts.set(keyServer.cek(target.kvm.sevDevice.getId().id), 2 * 2084);
	const certificates = { pdhCert: pdh, platCerts, amdCerts: keyServer.askArk() };
	const started = source.vm.sev.sendStart({ ...certificates, sessionLen: 128 });
	expect0('SEND_START', started.ret);
	const buffer = source.kvm.memory.mmap(Math.ceil((STRIDE * BATCH) / PAGE_SIZE) * PAGE_SIZE);
	const at = { headerAt: 16, payloadAt: 16 + HEADER + 4, stride: STRIDE };
	const pages = (base: Hva, first: number) =>
		Array.from({ length: BATCH }, (_, i) => (base + (first + i) * PAGE_SIZE) as Hva);
	const lists = Array.from({ length: GUEST / PAGE_SIZE / BATCH }, (_, i) => i * BATCH);
	const outgoing = lists.map((first) => pages(source.ram.hva, first));
	const incoming = lists.map((first) => pages(target.ram.hva, first));
	let turn = 0;
	const send = pagesPerSecond(BATCH, () => {
		const list = outgoing[turn++ % outgoing.length] ?? [];
		expect0('SEND_UPDATE_DATA', source.vm.sev.sendUpdateDataBatch(list, BATCH, buffer.bytes, at).ret);
	});
	const own = source.kvm.sevDevice.pdhCertExport().pdh;
	expect0('RECEIVE_START', target.vm.sev.receiveStart({ policy: 0, pdhCert: own, session: started.session }).ret);
	const arrived = target.kvm.memory.mmap(buffer.bytes.length);
	arrived.bytes.set(buffer.bytes);
	const receive = pagesPerSecond(BATCH, () => {
		const list = incoming[turn++ % incoming.length] ?? [];
		expect0('RECEIVE_UPDATE_DATA', target.vm.sev.receiveUpdateDataBatch(list, BATCH, arrived.bytes, at).ret);
	});
	return { engine, send, receive };
}
