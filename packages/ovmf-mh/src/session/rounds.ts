import { constantTimeEqual, wipe } from '@cvm/crypto';
import { PAGE_SIZE } from '@cvm/layout';
import { HelperStatus } from '../mailbox/abi.js';
import { beginDigests, collectTotals } from './digest.js';
import { recordKey } from './keys.js';
import { decoded, openMessage, sealMessage } from './message.js';
import { answer, DONE, type Handler, refuse, type SessionContext } from './outcome.js';
import { beginRecord, checkRecord, recordIv, saltOf } from './records.js';
import { epochBody, MessageType, RECORD_HEADER_ONE, RecordOffset, RecordType, TAG_BYTES, VCPU_STREAM } from './wire.js';

/** Messages and epochs are counted in 32 bits: room stays for those that end a session. */
const MAX_EPOCH = 0xffff_fff0;
const TAG = { from: RecordOffset.tag, to: RecordOffset.tag + TAG_BYTES } as const;

/** `epoch`: all streams stand still meanwhile, so the totals are those of the epoch that ends. */
export const epoch: Handler = (context) => {
	const { provider, state, frames } = context;
	const next = state.num('epoch') + 1;
	if (next > MAX_EPOCH) return refuse(HelperStatus.limit);
	const body = epochBody.encode({ streams: state.num('streams'), totals: collectTotals(context) });
	const message = sealMessage(provider, state, MessageType.epoch, { body, epoch: next });
	state.setNum('epoch', next);
	frames.clearEpoch();
	return answer(message);
};

/** `nextEpoch`: input is EPOCH. The totals must be what arrived, so nothing of the epoch before is missing. */
export const nextEpoch: Handler = (context, { input }) => {
	const { provider, state, frames } = context;
	const next = state.num('epoch') + 1;
	const opened = openMessage(provider, state, MessageType.epoch, input, next);
	if (opened.status !== HelperStatus.success) return opened;
	const body = decoded(() => epochBody.decode(opened.body));
	if (body === undefined) return refuse(HelperStatus.length);
	const totals = collectTotals(context);
	if (body.streams !== state.num('streams') || !constantTimeEqual(body.totals, totals))
		return refuse(HelperStatus.order);
	state.setNum('epoch', next);
	frames.clearEpoch();
	return DONE;
};

/** `freeze`. */
export const freeze: Handler = (context) => {
	beginDigests(context);
	context.state.bytes('frozenVcpus').set(vcpuChain(context));
	return { status: HelperStatus.success, gate: 'close' };
};

/** Chain over the vCPU states: their order and number count. */
function chainVcpu({ provider, state }: SessionContext, area: Uint8Array): void {
	state.bytes('vcpuDigest').set(provider.digest('sha256', state.bytes('vcpuDigest'), area));
}

/** The chain over all vCPU states as they are now. */
function vcpuChain({ memory, provider, saveAreas }: SessionContext): Uint8Array {
	const area = new Uint8Array(PAGE_SIZE);
	let chain: Uint8Array = new Uint8Array(32);
	for (const address of saveAreas) {
		memory.read(address, area);
		chain = provider.digest('sha256', chain, area);
	}
	area.fill(0);
	return chain;
}

/** Whether no vCPU was entered since the freeze: then memory and registers are those of one moment. */
export const areVcpusAtRest = (context: SessionContext): boolean =>
	constantTimeEqual(vcpuChain(context), context.state.bytes('frozenVcpus'));

/** `saveVcpu`: argument is the vCPU. Each once, in order: its number is counter and IV. */
export const saveVcpu: Handler = (context, { argument }) => {
	const { memory, provider, state, saveAreas } = context;
	const counter = state.num('vcpuRecords');
	const address = saveAreas[argument];
	if (address === undefined) return refuse(HelperStatus.address);
	if (argument !== counter) return refuse(HelperStatus.order);
	const record = new Uint8Array(RECORD_HEADER_ONE + PAGE_SIZE);
	const header = record.subarray(0, RECORD_HEADER_ONE);
	const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
	const what = { type: RecordType.vcpu, counter, stream: VCPU_STREAM, count: 1, ivCounter: counter };
	beginRecord(context, view, header, what);
	view.setUint32(RecordOffset.list, argument, true);
	const area = record.subarray(RECORD_HEADER_ONE);
	memory.read(address, area);
	if (!context.isSaveArea(area)) {
		area.fill(0);
		return refuse(HelperStatus.incomplete);
	}
	chainVcpu(context, area);
	const iv = new Uint8Array(12);
	recordIv(iv, view);
	const key = recordKey(provider, state.bytes('pageKey'), saltOf(header));
	provider.gcmSealInto(key, iv, header.slice(), area, area, header.subarray(TAG.from, TAG.to));
	wipe(key);
	state.setNum('vcpuRecords', counter + 1);
	return answer(record);
};

/** `restoreVcpu`: argument is the vCPU, input its record. */
export const restoreVcpu: Handler = (context, { input, argument }) => {
	const { memory, provider, state, saveAreas } = context;
	const counter = state.num('vcpuRecords');
	const address = saveAreas[argument];
	if (input.length !== RECORD_HEADER_ONE + PAGE_SIZE) return refuse(HelperStatus.length);
	if (address === undefined) return refuse(HelperStatus.address);
	if (argument !== counter) return refuse(HelperStatus.order);
	const header = input.slice(0, RECORD_HEADER_ONE);
	const view = new DataView(header.buffer);
	const check = checkRecord(context, view, header, { type: RecordType.vcpu, counter, stream: VCPU_STREAM, count: 1 });
	if (check !== HelperStatus.success) return refuse(check);
	const expected: readonly (readonly [number, number])[] = [
		[RecordOffset.ivCounter, counter],
		[RecordOffset.ivCounter + 4, 0],
		[RecordOffset.list, counter],
		[RecordOffset.list + 4, 0],
		[RecordOffset.zeroMapLow, 0],
		[RecordOffset.zeroMapHigh, 0],
	];
	if (expected.some(([at, value]) => view.getUint32(at, true) !== value)) return refuse(HelperStatus.length);
	const iv = new Uint8Array(12);
	recordIv(iv, view);
	const tag = header.slice(TAG.from, TAG.to);
	header.fill(0, TAG.from, TAG.to);
	const area = new Uint8Array(PAGE_SIZE);
	const sealed = input.subarray(RECORD_HEADER_ONE);
	const key = recordKey(provider, state.bytes('pageKey'), saltOf(header));
	const isGenuine = provider.gcmOpenInto(key, iv, header, sealed, tag, area);
	wipe(key);
	if (!isGenuine) return refuse(HelperStatus.authentication);
	chainVcpu(context, area);
	memory.write(address, area);
	area.fill(0);
	state.setNum('vcpuRecords', counter + 1);
	return DONE;
};
