package kvm

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hikae/hikae/kvm/qmp"
)

// described is what QEMU tells about itself that a person needs to start such a machine again.
var described = []string{
	"query-version", "query-name", "query-uuid", "query-status", "query-block", "query-cpus-fast",
	"query-memory-size-summary", "query-pci", "query-chardev", "query-iothreads",
}

const maxCommandLine = 1 << 20

// takeConfig is the native configuration: QEMU's answers byte for byte, the command line that it was started with where
// this machine lets it be read, with its arguments ended by zero bytes, and libvirt's description where it is a domain.
func takeConfig(ctx context.Context, mon monitor) (map[string][]byte, error) {
	config := map[string][]byte{}
	for _, command := range described {
		var answer json.RawMessage
		err := mon.Execute(ctx, command, nil, &answer)
		if qmp.Refused(err) {
			continue // not every machine has it
		}
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		config["qmp/"+command+".json"] = answer
	}
	if p, ok := base(mon).(interface{ PeerPID() (int, bool) }); ok {
		if line := commandLine(p.PeerPID()); len(line) > 0 && len(line) <= maxCommandLine {
			config["command-line"] = line
		}
	}
	if d, ok := base(mon).(*domainMonitor); ok {
		if err := d.describe(ctx, config); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	return config, nil
}
