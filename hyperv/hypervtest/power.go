package hypervtest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Values of EnabledState.
const (
	stateOn    = 2
	stateOff   = 3
	statePause = 32768
	stateSaved = 32769
)

// running says whether the VM has its disks open. It takes no lock but the guest's.
func (g *Guest) running() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on
}

// requestState is Msvm_ComputerSystem's RequestStateChange.
func requestState(c *Call) (uint32, []any) {
	h := c.Host
	id, _ := c.Object.text("Name")
	g := h.guests[strings.ToLower(id)]
	if g == nil {
		return 32773, nil
	}
	var to uint16
	switch c.text("RequestedState") {
	case "2":
		to = stateOn
	case "3", "4":
		to = stateOff
	case "32769", "6":
		to = stateSaved
	case "32768", "9":
		to = statePause
	default:
		return 32773, nil
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Changing the state", h.opts.JobTime, func() error { return g.turn(to) }, nil)}
}

// turn has the VM in another state. The host's lock is held.
func (g *Guest) turn(to uint16) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	on := to == stateOn || to == statePause
	if on == g.on {
		g.enter(to)
		return nil
	}
	if !on {
		for _, d := range g.drives {
			if err := d.shut(); err != nil {
				return err
			}
			d.track.coarsen(grainFile)
		}
	} else if err := g.boot(); err != nil {
		return err
	}
	g.on = on
	g.enter(to)
	g.h.event(Event{Actor: "host", Name: map[bool]string{true: "on", false: "off"}[on], VM: g.id})
	return nil
}

// enter notes the state that the VM has from now on. A VM that goes off and on again within a moment has another time of its last change.
func (g *Guest) enter(state uint16) {
	g.object.Set("EnabledState", state)
	last, _ := g.object.Values["TimeOfLastStateChange"].(time.Time)
	now := time.Now().UTC().Truncate(time.Microsecond)
	if !now.After(last) {
		now = last.Add(time.Microsecond)
	}
	g.object.Set("TimeOfLastStateChange", now)
}

// boot opens the disks. All that the settings name have to be there; what somebody wrote meanwhile is what the guest finds.
func (g *Guest) boot() error {
	if g.planned {
		return &FaultError{Code: 32775, Reason: "a planned system cannot be started"}
	}
	g.recall(g.folder + `\Virtual Machines\` + strings.ToUpper(g.id) + ".vmgs")
	have := map[*Object]bool{}
	for _, d := range g.drives {
		have[d.resource] = true
		if err := d.open(); err != nil {
			return fmt.Errorf("'%s' cannot be started: %s: %w", g.name, d.tip.name, err)
		}
	}
	for _, o := range g.h.parts(g.set) {
		sub, _ := o.text("ResourceSubType")
		name := firstOf(o.Values["HostResource"])
		if o.Class != "Msvm_StorageAllocationSettingData" || sub != subDisk || have[o] {
			continue
		}
		d, err := g.adopt(o, name)
		if err == nil {
			err = d.open()
		}
		if err != nil {
			return fmt.Errorf("'%s' cannot be started: %s: %w", g.name, name, err)
		}
		g.drives = append(g.drives, d)
	}
	return nil
}

// PowerOn starts the VM.
func (g *Guest) PowerOn() error {
	defer g.hold()()
	return g.turn(stateOn)
}

// PowerOff shuts it down in good order.
func (g *Guest) PowerOff() error {
	defer g.hold()()
	return g.turn(stateOff)
}

// PowerCut is the host's: the VM is off, its disks' files are as the writes left them, with a log in use, and of changes the coarsest record
// is what stays. What the guest wrote is in the files: it is the host's memory of changes that goes, and not the disks' of writes.
func (g *Guest) PowerCut() error {
	defer g.hold()()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.drives {
		if err := d.crash(); err != nil {
			return err
		}
		d.track.coarsen(grainCrash)
	}
	g.on = false
	g.enter(stateOff)
	g.h.event(Event{Actor: "host", Name: "power cut", VM: g.id})
	return nil
}

// Checkpoint makes a user's, and returns its GUID.
func (g *Guest) Checkpoint(name string) (string, error) {
	defer g.hold()()
	cp, err := g.take(wish{kind: typeUser, level: 2})
	if err != nil {
		return "", err
	}
	g.h.publish(g, cp, nil)
	if name != "" {
		cp.object.Set("ElementName", name)
	}
	return cp.id, nil
}

func (g *Guest) byID(id string) (*checkpoint, error) {
	i := slices.IndexFunc(g.checkpoints, func(cp *checkpoint) bool { return strings.EqualFold(cp.id, id) })
	if i < 0 {
		return nil, errNoCheckpoint
	}
	return g.checkpoints[i], nil
}

// Checkpoints are the GUIDs of those that there are, of users and of backups, in the order in which they were made.
func (g *Guest) Checkpoints() (ids []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cp := range g.checkpoints {
		ids = append(ids, cp.id)
	}
	return ids
}

// ApplyCheckpoint reverts the VM to one. Where it runs it is off for a moment.
func (g *Guest) ApplyCheckpoint(id string) error {
	defer g.hold()()
	cp, err := g.byID(id)
	if err != nil {
		return err
	}
	on := g.running()
	if err := g.turn(stateOff); err != nil {
		return err
	}
	if err := g.revert(cp); err != nil {
		return err
	}
	g.h.collapse(g)
	if on {
		return g.turn(stateOn)
	}
	return nil
}

// RemoveCheckpoint removes one, and merges its files in time.
func (g *Guest) RemoveCheckpoint(id string) error {
	defer g.hold()()
	cp, err := g.byID(id)
	if err != nil {
		return err
	}
	if err := g.forget(cp, false); err != nil {
		return err
	}
	g.h.collapse(g)
	return nil
}

// Settled waits until no merge goes on and no job is under way, for a test's own steps.
func (h *Host) Settled(limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		h.Lock()
		h.tick(time.Now())
		busy := len(h.jobs) > 0
		h.Unlock()
		if !busy {
			return true
		}
	}
	return false
}
