import type { DeviceDescription, StateDescription } from '@cvm/qemu-mig';
import { Command, findDevice, SectionType } from '@cvm/qemu-mig';
import type { Finding, ImageDevice, StreamImage, Verification } from '@cvm/qemu-mig/image';
import { POSTCOPY_PAUSED } from '@cvm/qemu-mig/image';

/** What QEMU puts before each line. */
const PROGRAM = 'qemu-system-x86_64';

/** QEMU 7.2 qapi/run-state.json `RunState`. */
const RUN_STATES: readonly string[] = [
	...['debug', 'inmigrate', 'internal-error', 'io-error', 'paused', 'postmigrate', 'prelaunch', 'finish-migrate'],
	...['restore-vm', 'running', 'save-vm', 'shutdown', 'suspended', 'watchdog', 'guest-panicked', 'colo'],
];

/** What a target says of a stream. */
export interface Answer {
	readonly lines: readonly string[];
	/** Whether it refuses the stream, and ends with status 1, or waits for another connection of postcopy. */
	readonly failed: boolean;
}

type Refusal = Pick<Finding, 'qemu' | 'strerror' | 'input'> & { readonly offset: number };

/** The lines of a target, in their order, up to the one that ends it. `target`: a stream of that target, if there is one. */
export function answerOf(verification: Verification, target: StreamImage | undefined): Answer {
	const { findings, complete, image } = verification;
	// What is wrong with a whole stream, as pages that never came, no target notices.
	const fault = complete ? undefined : findings.find(({ severity, rule }) => severity === 'error' && isFault(rule));
	const refused = image.devices
		.filter(({ section }) => section.type === SectionType.full)
		.map((device) => refusalOf(device, target))
		.find((refusal) => refusal !== undefined);
	const last = refused !== undefined && (fault === undefined || !isBefore(fault, refused)) ? refused : fault;
	const said = findings
		.filter(
			(one) => one.severity !== 'error' && one.offset !== undefined && (last === undefined || isBefore(one, last)),
		)
		.flatMap(ownLines);
	if (last === undefined) {
		if (image.end?.description === false && !image.postcopy) {
			said.push(`Expected vmdescription section, but got ${image.end.instead ?? 0}`);
		}
	} else if (last === fault && image.commands.some(({ command }) => command === Command.postcopyRun)) {
		// It does not end: the guest runs already.
		said.push(...ownLines(last), POSTCOPY_PAUSED);
	} else {
		const inField = last === fault ? cutField(verification, fault, target) : [];
		said.push(...inField, ...ownLines(last), `load of migration failed: ${last.strerror ?? 'Invalid argument'}`);
	}
	return { lines: said.map((line) => `${PROGRAM}: ${line}`), failed: last !== undefined };
}

/** Whether a target comes to one place before the other; what has no offset lies at the end. */
function isBefore(a: Pick<Finding, 'input' | 'offset'>, b: Pick<Finding, 'input' | 'offset'>): boolean {
	const [one, other] = [a.input ?? 0, b.input ?? 0];
	return one < other || (one === other && (a.offset ?? Infinity) < (b.offset ?? Infinity));
}

const isFault = (rule: string): boolean => /^(stream|codec|input)\//.test(rule);
const ownLines = ({ qemu = [] }: Pick<Finding, 'qemu'>): readonly string[] => qemu;

/** Why a target does not take a device. QEMU 7.2 migration/savevm.c `qemu_loadvm_section_start_full`. */
function refusalOf(
	{ section, offset, body, input }: ImageDevice,
	target: StreamImage | undefined,
): Refusal | undefined {
	const { idstr, instanceId, version } = section;
	const refusal = (...qemu: string[]): Refusal => ({ offset, input, qemu, strerror: 'Invalid argument' });
	const local = target?.devices.find(({ section: s }) => s.idstr === idstr && s.instanceId === instanceId)?.section;
	if (target !== undefined && local === undefined) {
		return refusal(
			`Unknown savevm section or instance '${idstr}' ${instanceId}. Make sure that your current VM setup ` +
				'matches your saved VM setup, including any hotplugged devices',
		);
	}
	if (local !== undefined && version > local.version) {
		return refusal(`savevm: unsupported version ${version} for '${idstr}' v${local.version}`);
	}
	const state =
		idstr === 'globalstate' ? Buffer.from(body.subarray(4)).toString('latin1').replace(/\0.*$/s, '') : 'running';
	if (RUN_STATES.includes(state)) return undefined;
	return refusal(
		`invalid parameter value: ${state}`,
		`error while loading state for instance 0x0 of device '${idstr}'`,
	);
}

/** The one device that every target has. QEMU 7.2 migration/global_state.c. */
const GLOBAL_STATE: StateDescription = {
	vmsdName: 'globalstate',
	version: 1,
	fields: [
		{ name: 'size', type: 'uint32', size: 4, nesting: 'none', layouts: [] },
		{ name: 'runstate', type: 'buffer', size: 100, nesting: 'none', layouts: [] },
	],
	subsections: [],
};

/** Where a stream ends inside a device, the target names the field, and the states around it. */
function cutField({ image }: Verification, fault: Finding | undefined, target: StreamImage | undefined): string[] {
	const { section, offset, rule } = fault ?? {};
	const input = image.inputs[fault?.input ?? 0];
	const isRaw = input?.libvirt === undefined;
	if (rule !== 'stream/truncated' || section === undefined || offset === undefined || !isRaw) return [];
	const parsed = target?.description?.parsed;
	// Which instance it was is not told; they have one layout.
	const instance = parsed?.devices.find(({ idstr }) => idstr === section)?.instanceId ?? 0;
	const state = stateOf(section === 'globalstate' ? undefined : parsed && findDevice(parsed, section, instance));
	const layout = section === 'globalstate' ? GLOBAL_STATE : state;
	return layout === undefined ? [] : fieldLines(layout, (input?.bytes ?? offset) - offset);
}

const stateOf = (device: DeviceDescription | undefined): StateDescription | undefined =>
	device?.kind === 'state' ? device.state : undefined;

/** @param left bytes of the state that are there */
function fieldLines({ vmsdName, fields }: StateDescription, left: number): string[] {
	for (const { name, size, arrayLength = 1, layouts } of fields) {
		if (left < size * arrayLength) {
			const [inner] = layouts;
			// The description numbers fields of one name.
			const line = `Failed to load ${vmsdName}:${name.replace(/\[\d+\]$/, '')}`;
			return [...(inner === undefined ? [] : fieldLines(inner, left % size)), line];
		}
		left -= size * arrayLength;
	}
	return [];
}
