// Lists the devices of a migration stream or save file with their decoded fields: node list-devices.mjs FILE
import { createReadStream } from 'node:fs';
import { fieldLabel, leavesOf } from '@cvm/qemu-mig';
import { deviceTrees, openImage } from '@cvm/qemu-mig/image';

// Without a store nothing is kept of RAM, however large the file is.
const image = await openImage(createReadStream(process.argv[2]));
for (const { device, tree, problem } of deviceTrees(image)) {
	const { idstr, instanceId } = device.section;
	console.log(`${idstr} ${instanceId}: ${device.body.length} bytes at 0x${device.offset.toString(16)}`);
	if (tree === undefined) console.log(`  ${problem ?? 'not described'}`);
	else for (const { path, field } of leavesOf(tree)) console.log(`  ${path || fieldLabel(field)}`, field.value);
}
