import { spawn } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
	deviceLengths,
	deviceToJson,
	diffDevices,
	findDevice,
	formatVmDescription,
	parseVmDescription,
	StreamReader,
	viewDevice,
	walkDevice,
} from '@cvm/qemu-mig';
import { expect, it } from 'vitest';
import { migrated, qmp } from './capture.mjs';
import { temporaryFolder } from './programs.js';

const folder = temporaryFolder();
const disk = join(folder, 'disk.raw');
writeFileSync(disk, '');
truncateSync(disk, 2 ** 20);

const virtio = [
	...['-drive', `if=none,id=d0,format=raw,file=${disk}`, '-netdev', 'user,id=n0'],
	...['-device', 'virtio-blk-pci,drive=d0', '-device', 'virtio-net-pci,netdev=n0', '-device', 'virtio-rng-pci'],
];
const usb = (controller: string): string[] => [
	...['-device', controller, '-device', 'usb-tablet', '-device', 'usb-kbd', '-device', 'usb-hub'],
];

/** What is run, and devices that must be among those of the stream. */
const machines: readonly [name: string, argv: readonly string[], expected: readonly string[]][] = [
	['none', ['-machine', 'none'], ['timer', 'globalstate']],
	['microvm', ['-machine', 'microvm', '-m', '16', '-nodefaults'], ['cpu', 'apic', 'ioapic']],
	[
		'isapc',
		['-machine', 'isapc', '-m', '4', '-nodefaults', '-device', 'isa-vga', '-device', 'sb16'],
		['i8259', 'sb16'],
	],
	['pc', ['-machine', 'pc', '-m', '16', '-smp', '3'], ['cpu', 'i8254']],
	[
		'pc with VGA, virtio and USB 1',
		['-machine', 'pc', '-m', '16', '-nodefaults', '-device', 'VGA', ...virtio, ...usb('piix3-usb-uhci')],
		['0000:00:02.0/vga', '0000:00:03.0/virtio-blk', '0000:00:04.0/virtio-net'],
	],
	[
		'q35 with VGA, virtio and USB 3',
		['-machine', 'q35', '-m', '16', '-nodefaults', '-device', 'VGA', ...virtio, ...usb('qemu-xhci')],
		['0000:00:1f.2/ich9_ahci', '0000:00:01.0/vga'],
	],
	[
		'q35 with all of its defaults and more',
		[
			...['-machine', 'q35', '-m', '16', '-smp', '2', '-cpu', 'max', '-vga', 'cirrus', '-uuid'],
			...['00112233-4455-6677-8899-aabbccddeeff', '-device', 'pcie-root-port,id=r,slot=1', '-device', 'e1000e,bus=r'],
			...[
				'-device',
				'intel-hda',
				'-device',
				'hda-duplex',
				'-device',
				'virtio-scsi-pci',
				'-device',
				'virtio-serial-pci',
			],
			...[
				'-device',
				'virtio-balloon-pci',
				'-device',
				'virtio-gpu-pci',
				'-device',
				'ich9-usb-ehci1',
				'-device',
				'nec-usb-xhci',
			],
			...['-device', 'virtio-iommu-pci', '-device', 'i6300esb', '-device', 'tpci200', '-device', 'vmcoreinfo'],
		],
		['cpu', 'fw_cfg'],
	],
];

/** The stream a machine gives when it is stopped before it ran, and what `command` of the human monitor says then. */
async function streamOf(
	argv: readonly string[],
	name: string,
	command = 'info status',
): Promise<{ stream: Uint8Array; answer: string }> {
	const file = join(folder, `${name}.qevm`);
	const socket = join(folder, `${name}.qmp`);
	const qemu = spawn(
		'qemu-system-x86_64',
		[...argv, '-accel', 'tcg', '-S', '-display', 'none', '-qmp', `unix:${socket},server,nowait`],
		{ stdio: ['ignore', 'ignore', 'pipe'] },
	);
	let complaints = '';
	let answer = '';
	qemu.stderr.on('data', (data) => (complaints += data));
	const ended = new Promise((done, fail) => qemu.once('close', done).once('error', fail));
	try {
		const monitor = await Promise.race([
			qmp(socket),
			ended.then(() => Promise.reject(new Error(`QEMU ended: ${complaints}`))),
		]);
		answer = await monitor.execute('human-monitor-command', { 'command-line': command });
		await monitor.execute('migrate', { uri: `exec:cat > '${file}'` });
		await migrated(monitor);
		await monitor.execute('quit');
		monitor.close();
	} finally {
		qemu.kill();
		await ended.catch(() => {});
	}
	return { stream: readFileSync(file), answer };
}

/** Bodies and description, as read with lengths that the description gave or, first, without. */
function read(stream: Uint8Array, deviceLength?: (idstr: string, instance: number) => number | undefined) {
	const bodies: { idstr: string; instanceId: number; version: number; body: Uint8Array }[] = [];
	let json = new Uint8Array(0);
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		...(deviceLength && { deviceLength }),
		handler: {
			opaqueBody: (section, body) => bodies.push({ ...section, body: body.slice() }),
			vmDescription: (text) => {
				json = text.slice();
			},
		},
	});
	reader.push(stream);
	reader.end();
	return { bodies, json };
}

it.each(machines)('decodes every byte of every device of %s', async (name, argv, expected) => {
	const { stream } = await streamOf(argv, `m${machines.findIndex(([other]) => other === name)}`);
	const { bodies, json } = read(stream);
	const description = parseVmDescription(json);
	expect(Buffer.from(formatVmDescription(description)).equals(json), 'the description, formatted again').toBe(true);
	expect(description.devices.map(({ idstr }) => idstr)).toEqual(expect.arrayContaining([...expected]));
	expect(bodies.map(({ idstr }) => idstr)).toEqual(description.devices.map(({ idstr }) => idstr));

	const trees = bodies.map(({ idstr, instanceId, version, body }) => {
		const device = findDevice(description, idstr, instanceId);
		if (device === undefined) throw new Error(`${idstr} is not described`);
		return walkDevice(device, body, { version });
	});
	for (const tree of trees) {
		expect(tree.root.length).toBe(tree.body.length);
		expect(JSON.stringify(deviceToJson(tree))).toContain(tree.root.name);
	}
	expect(diffDevices(trees, trees)).toEqual([]);
	const runState = trees.find(({ idstr }) => idstr === 'globalstate');
	expect(runState && viewDevice(runState)?.[0]?.entries[1]?.value).toBe('prelaunch');

	// The same bodies when the lengths are told beforehand.
	const lengths = deviceLengths(description);
	const again = read(stream, (idstr, instance) => (idstr === 'ram' ? undefined : lengths.of(idstr, instance)));
	expect(again.bodies.map(({ body }) => body.length)).toEqual(lengths.entries.map(({ length }) => length));
	expect(again).toEqual({ bodies, json });
});

it('decodes the registers that QEMU itself prints', async () => {
	const { stream, answer } = await streamOf(['-machine', 'pc', '-m', '16'], 'registers', 'info registers');
	const { bodies, json } = read(stream);
	const description = findDevice(parseVmDescription(json), 'cpu', 0);
	const body = bodies.find(({ idstr }) => idstr === 'cpu')?.body;
	if (description === undefined || body === undefined) throw new Error('no cpu');
	const entries = viewDevice(walkDevice(description, body))?.flatMap((group) => group.entries) ?? [];
	const decoded = (label: string): number => Number(entries.find((entry) => entry.label === label)?.value);

	const printed = [...answer.matchAll(/\b(E[ABCDS][XPI]|EIP|CR[0234]|EFER)=([0-9a-f]+)/g)];
	expect(printed.length).toBe(14);
	for (const [, name = '', digits = ''] of printed) {
		const label = /^(CR|EFER)/.test(name) ? name.toLowerCase() : `r${name.slice(1).toLowerCase()}`;
		expect([label, decoded(label)]).toEqual([label, Number.parseInt(digits, 16)]);
	}
	const segments = [...answer.matchAll(/^([CDEFGS]S|LDT|TR) *=([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)/gm)];
	expect(segments.length).toBe(8);
	for (const [, name = '', ...digits] of segments) {
		const parts = ['selector', 'base', 'limit', 'flags'].map((part) => decoded(`${name.toLowerCase()}.${part}`));
		expect([name, ...parts]).toEqual([name, ...digits.map((text) => Number.parseInt(text, 16))]);
	}
});
