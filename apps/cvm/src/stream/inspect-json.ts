import type { FieldJson, StateJson } from '@cvm/qemu-mig';
import { deviceToJson } from '@cvm/qemu-mig';
import type { DecodedDevice } from './devices.js';
import type { Inspection } from './inspect.js';
import type { BlockPages } from './pages.js';
import { kindCounts, rangesOf } from './pages.js';

/** What `--json` prints. Offsets and lengths are bytes, offsets from the first byte of the stream. */
export function inspectionJson(
	inspection: Inspection,
	show: { readonly devices?: true; readonly pages?: true },
): object {
	const { found, survey, devices, channels, fault } = inspection;
	const { detection, save } = found;
	const { configuration, pages, steps } = survey;
	return {
		what: detection.other ?? found.stream,
		bytes: inspection.bytes,
		...(save && {
			libvirt: { ...save.header, unused: undefined, bytes: save.prefix.length },
		}),
		dialect: {
			name: found.dialect,
			detected: detection.best,
			certain: detection.certain,
			candidates: detection.candidates,
		},
		...(configuration && {
			machine: configuration.value.machineType,
			capabilities: inspection.capabilities,
			configuration: configuration.value.subsections.map(({ name, version, data }) => ({
				name,
				version,
				data: Buffer.from(data).toString('hex'),
			})),
		}),
		blocks: [...pages.blocks.values()].map((block) => blockJson(block, show.pages)),
		rounds: pages.rounds.map(({ offset, records }) => ({ offset, pages: kindCounts(records) })),
		'time-line': steps,
		...(survey.left > 0 && { 'not-shown': survey.left }),
		devices: devices.map((device) => deviceJson(device, show.devices)),
		...(channels.length > 0 && { channels }),
		postcopy: survey.postcopy,
		complete: survey.eof,
		description: survey.description !== undefined,
		trailing: survey.end?.trailing ?? 0,
		...(fault && {
			fault: { code: fault.code, offset: fault.offset, section: fault.section, message: fault.message },
		}),
	};
}

function blockJson(block: BlockPages, withRanges: boolean | undefined): object {
	const { idstr, listed } = block;
	return {
		idstr,
		...(listed && { bytes: listed.usedLength }),
		...(listed?.pageSize !== undefined && { 'page-size': listed.pageSize }),
		...(listed?.address !== undefined && { address: listed.address.toString() }),
		...(listed?.mapped && { 'pages-offset': listed.mapped.pagesOffset.toString() }),
		'pages-sent': block.distinct,
		records: kindCounts(block.records),
		...(withRanges && {
			ranges: [...rangesOf(block)].map(({ first, count, kind, sent }) => ({
				offset: first * 4096,
				length: count * 4096,
				kind,
				sent,
			})),
		}),
	};
}

function deviceJson(device: DecodedDevice, withFields: boolean | undefined): object {
	const { section, offset, length, tree, why } = device;
	const decoded: { fields?: readonly FieldJson[]; subsections?: readonly StateJson[] } =
		withFields && tree ? deviceToJson(tree) : {};
	return {
		idstr: section.idstr,
		instance: section.instanceId,
		version: section.version,
		id: section.id,
		offset,
		length,
		...(tree ? { vmsd: tree.root.name } : { undecoded: why }),
		...(decoded.fields && { fields: decoded.fields }),
		...(decoded.subsections && { subsections: decoded.subsections }),
	};
}
