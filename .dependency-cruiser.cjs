// The layers of ARCHITECTURE.md as rules. Source conditions are on, so that edges end in sources, not in dist.
const only = (name, ...allowed) => ({
	name: `${name} imports only ${allowed.join(', ') || 'nothing of ours'}`,
	severity: 'error',
	from: { path: `^packages/${name}/src/`, pathNot: '\\.test\\.ts$' },
	to: { path: '^(packages|apps)/', pathNot: [name, ...allowed].map((p) => `^packages/${p}/`) },
});

module.exports = {
	forbidden: [
		{
			name: 'no cycles',
			severity: 'error',
			from: {},
			to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
		},
		only('layout'),
		only('crypto'),
		only('sev-hw', 'layout', 'crypto'),
		only('kvm', 'layout', 'crypto', 'sev-hw'),
		only('devsev', 'layout', 'crypto', 'sev-hw', 'kvm'),
		only('ovmf-mh', 'layout', 'crypto', 'kvm'),
		only('qemu-mig', 'layout'),
		only('qmp'),
		{
			name: 'apps/host imports packages, not other apps',
			severity: 'error',
			from: { path: '^apps/host/' },
			to: { path: '^apps/(?!host/)' },
		},
		{
			name: 'only a vCPU and the firmware reach through the memory-encryption engine',
			comment: 'No path from private plaintext to the VMM: see docs/threat-model.md',
			severity: 'error',
			from: {
				pathNot: [
					'^packages/sev-hw/',
					'^packages/kvm/src/vcpu/',
					'^packages/kvm/test/',
					'\\.test\\.ts$',
					'^apps/cvm/src/bench/',
				],
			},
			to: { path: '^packages/sev-hw/src/(silicon|engine)' },
		},
		{
			name: 'the VMM half of a host never imports guest code',
			severity: 'error',
			from: { path: '^apps/host/src/', pathNot: ['^apps/host/src/guest/', '^apps/host/src/vcpu-worker'] },
			to: {
				path: ['^packages/kvm/src/(guest|vcpu)/', '^packages/ovmf-mh/src/firmware/', '^apps/host/src/guest/'],
				pathNot: '^packages/kvm/src/guest/boot-protocol',
			},
		},
		{
			name: 'no deep imports between packages',
			severity: 'error',
			from: { path: '^(packages|apps)/([^/]+)/' },
			to: { path: '^(packages|apps)/[^/]+/', pathNot: ['^$1/$2/'], dependencyTypes: ['local'] },
		},
	],
	options: {
		doNotFollow: { path: 'node_modules' },
		exclude: { path: '(^|/)(dist|node_modules)/' },
		tsPreCompilationDeps: true,
		tsConfig: { fileName: 'tsconfig.base.json' },
		enhancedResolveOptions: {
			exportsFields: ['exports'],
			conditionNames: ['@cvm/source', 'import', 'types', 'default'],
			extensions: ['.ts', '.js', '.mjs'],
		},
	},
};
