package hyperv

import (
	"fmt"
	"strings"
)

// Procedure is one of the ways in which a running VM is backed up. Each has an order of its own.
type Procedure string

// The procedures, as they stand in plans, reports and addresses.
const (
	// Auto lets conditions choose: R037, R085–R089.
	Auto Procedure = ""
	// Writer2012 is that of 2008 R2 and 2012: the host's VSS, the Hyper-V writer, a snapshot inside the guest, the volume snapshot,
	// and auto-recovery inside of that (R038–R061).
	Writer2012 Procedure = "writer2012"
	// Writer2012R2 has a backup checkpoint and an auto-recovery checkpoint, and recovers before the volume snapshot (R062–R079).
	Writer2012R2 Procedure = "writer2012r2"
	// Production is a production checkpoint with change tracking, of 2016 and later (R080–R099).
	Production Procedure = "production"
	// Requested is the host's VSS and its Hyper-V writer, and no checkpoint of ours (R100–R103).
	Requested Procedure = "requester"
)

// Mode says where the data of a snapshot are read (R051, R093, R196).
type Mode string

// Modes.
const (
	OnHost  Mode = "on-host"  // from the host
	OffHost Mode = "off-host" // from a snapshot of the volume, elsewhere
)

// Quiesce is the policy of consistency inside the guest.
type Quiesce string

// Policies.
const (
	// TryQuiesce takes what is as after a power cut where the guest cannot be quiesced, and says so.
	TryQuiesce     Quiesce = ""
	RequireQuiesce Quiesce = "require"
	NoQuiesce      Quiesce = "off"
)

// Plan is how one VM is going to be backed up, and why so. It can be printed.
type Plan struct {
	VM        string    `json:"vm"` // GUID
	Name      string    `json:"name"`
	Host      string    `json:"host"` // that owns it now
	Procedure Procedure `json:"procedure"`
	Mode      Mode      `json:"mode"`
	Tracking  bool      `json:"tracking"` // changes are, or will be, tracked
	Reasons   []Reason  `json:"reasons"`
}

// why is all that led to the plan, on one line.
func (p *Plan) why() string {
	var list []string
	for _, r := range p.Reasons {
		list = append(list, r.String())
	}
	return strings.Join(list, "; ")
}

// Reason is one thing that led to a plan.
type Reason struct {
	About string `json:"about"`          // procedure, mode, tracking
	Rule  string `json:"rule"`           // what it was asked against: "host is 2016 or later", "configuration version at least 8.0" …
	Found string `json:"found"`          // what was found: "2019 (build 17763)"
	Met   bool   `json:"met"`            //
	Hint  string `json:"hint,omitempty"` // what a person can change
}

func (r Reason) String() string {
	no := ""
	if !r.Met {
		no = "not met: "
	}
	return fmt.Sprintf("%s%s (%s)", no, r.Rule, r.Found)
}
