package guest

import (
	"fmt"
	"strings"
)

// Choice is what a job's settings say about one guest, and where that guest runs.
type Choice struct {
	// Windows chooses the procedures for Windows guests; everything else follows those for Linux.
	Windows bool `json:"windows"`
	// Persistent is the option "use the persistent component". Off is the default: the runtime component. A persistent
	// component that is there may be used all the same; who wants the runtime component for certain uninstalls the other.
	Persistent bool `json:"persistent"`
	// Strict follows the published charts to the letter, also to a failure where a channel is open.
	Strict bool `json:"strict"`
	// VSphere says that the hypervisor is vSphere: one of the charts asks.
	VSphere bool `json:"vsphere"`
}

// Probed is what was found out about a guest, seen from the machine that is to deploy.
type Probed struct {
	AdminShare   bool `json:"adminShare"`   // ADMIN$ and the service control manager: [SMB]
	Installer    bool `json:"installer"`    // the installer service answers on its port
	Component    bool `json:"component"`    // the persistent component that the job needs is installed (Linux: and answers)
	Hypervisor   bool `json:"hypervisor"`   // a channel that needs no network is open: [VSphere], [PSDirect], [QGA]
	Certificates bool `json:"certificates"` // of the installer service: ours knows its key, it knows ours, none has ended
	Network      bool `json:"network"`      // another channel over the network is open: [SSH], [WinRM]
}

// Action is what a decision comes to.
type Action string

// The actions.
const (
	// RuntimeByShare copies the runtime component into ADMIN$ and starts it as a service.
	RuntimeByShare Action = "runtime by ADMIN$"
	// RuntimeByHypervisor puts it into the guest's folder for temporary files over the hypervisor's channel.
	RuntimeByHypervisor Action = "runtime by the hypervisor"
	// RuntimeByNetwork deploys it over SSH or WinRM.
	RuntimeByNetwork Action = "runtime by the network"
	// UsePersistent uses the persistent component as it is.
	UsePersistent Action = "persistent"
	// InstallPersistent has the installer service install it first.
	InstallPersistent Action = "install persistent"
	// Fail ends the guest's processing; the job's policy says what becomes of the VM.
	Fail Action = "fail"
)

// Decision is how a guest is to be processed, and why.
type Decision struct {
	Action Action `json:"action"`
	Chart  string `json:"chart"` // name of the procedure that was followed
	Path   []Step `json:"path"`
	// FellThrough says that the published chart fails here, and that the last steps are ours.
	FellThrough bool `json:"fellThrough,omitempty"`
}

// Step is one question of a procedure and its answer.
type Step struct {
	Question string `json:"question"`
	Yes      bool   `json:"yes"`
}

func (s Step) String() string {
	if s.Yes {
		return s.Question + " yes"
	}
	return s.Question + " no"
}

// String tells the action and the way to it.
func (d Decision) String() string {
	steps := make([]string, len(d.Path))
	for i, s := range d.Path {
		steps[i] = s.String()
	}
	text := fmt.Sprintf("%s (%s)", d.Action, strings.Join(steps, "; "))
	if d.FellThrough {
		text += ", where the published chart fails"
	}
	return text
}

// Decide follows the procedure for this choice. It is a pure function: the same choice and findings give the same
// decision.
//
// The two procedures for Windows guests are the published ones. Without Strict, where the one for the runtime component
// fails, it goes on to a channel that is open: to ADMIN$, where that was reached and the installer service was not, and
// to SSH or WinRM, which the chart does not know. The one for the persistent component has no such way on: whoever
// chooses it has closed the others for a reason.
func Decide(c Choice, p Probed) Decision {
	chart := ChartFor(c)
	d := Decision{Chart: chart.Name}
	at := chart.nodes[0].id
	for range chart.nodes { // a chart has no cycles: a test holds that
		n := chart.node(at)
		if n == nil {
			break
		}
		yes := n.asks(c, p)
		d.Path = append(d.Path, Step{Question: n.question, Yes: yes})
		at = n.no
		switch {
		case yes:
			at = n.yes
		case n.ours != "" && !c.Strict:
			at, d.FellThrough = n.ours, at == string(Fail)
		}
	}
	d.Action = Action(at)
	d.FellThrough = d.FellThrough && d.Action != Fail
	return d
}
