//go:build unix

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/libvirt"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// script is a monitor that says what a test wants: JSON by command.
type script map[string]string

var errScript = errors.New("the test's monitor is gone")

func (s script) Version() (v qmp.Version) { v.QEMU.Major = 9; return v }
func (s script) Close() error             { return nil }

func (s script) Execute(_ context.Context, command string, _, out any) error {
	text, ok := s[command]
	switch {
	case !ok:
		return errScript
	case out == nil:
		return nil
	}
	return json.Unmarshal([]byte(text), out)
}

func (s script) Until(ctx context.Context, check func(context.Context) (bool, error), _ ...string) error {
	ok, err := check(ctx)
	if err == nil && !ok {
		err = context.DeadlineExceeded
	}
	return err
}

// A backup begins only where the VM is: not while it moves, nor where it left; where it arrived, it does.
func TestSettled(t *testing.T) {
	for state, want := range map[string]error{
		`{}`: nil, `{"status": "none"}`: nil, `{"status": "completed"}`: nil, `{"status": "failed"}`: nil, `{"status": "cancelled"}`: nil,
		`{"status": "setup"}`: ErrMigrating, `{"status": "active"}`: ErrMigrating, `{"status": "pre-switchover"}`: ErrMigrating,
		`{"status": "postcopy-active"}`: ErrMigrating, `{"status": "device"}`: ErrMigrating,
	} {
		err := settled(t.Context(), script{"query-migrate": state}, "vm", "running")
		require.ErrorIs(t, err, want, state)
		var busy *hikae.BusyError
		require.Equal(t, want != nil, errors.As(err, &busy), "callers know how to wait for what is busy")
	}
	require.ErrorIs(t, settled(t.Context(), script{"query-migrate": `{}`}, "vm", "inmigrate"), ErrMigrating)
	require.ErrorIs(t, settled(t.Context(), script{"query-migrate": `{"status": "completed"}`}, "vm", "postmigrate"), ErrMigrated)
	require.ErrorIs(t, settled(t.Context(), script{}, "vm", "running"), errScript)
}

// A point is made only of a snapshot that still is one.
func TestStands(t *testing.T) {
	s := &snapshot{footprint: newFootprint("/q")}
	s.Disks = []disk{{Key: "a", QDev: "/machine/a", Node: "n"}}
	nodes := `[{"node-name": "n"}, {"node-name": "` + s.filter(0) + `"}]`
	mon := script{"query-status": `{"status": "running"}`, "query-named-block-nodes": nodes, "qom-get": `"` + s.filter(0) + `"`}
	check := func(command, text string) error {
		s.mon = script{}
		for k, v := range mon {
			s.mon.(script)[k] = v
		}
		s.mon.(script)[command] = text
		return s.stands(t.Context())
	}
	require.NoError(t, check("query-migrate", "{}"))
	require.NoError(t, check("query-status", `{"status": "paused"}`), "who stops a VM does not end the snapshot")
	require.ErrorIs(t, check("query-status", `{"status": "postmigrate"}`), ErrMigrated)
	require.ErrorIs(t, check("query-status", `{"status": "finish-migrate"}`), ErrMigrated)
	require.ErrorIs(t, check("query-named-block-nodes", `[{"node-name": "n"}]`), ErrBroken)
	require.ErrorIs(t, check("qom-get", `"n"`), ErrBroken)

	s.gates = true
	require.ErrorIs(t, check("query-migrate", "{}"), ErrBroken, "the device is past the gate")
	require.NoError(t, check("qom-get", `"`+s.gate(0)+`"`))
	s.gates, s.byJob = false, true
	require.ErrorIs(t, check("query-jobs", `[{"id": "other"}]`), ErrBroken)
	require.NoError(t, check("query-jobs", `[{"id": "`+s.job(0)+`"}]`))
	broke := errors.New("full")
	s.broken.Store(&broke)
	require.ErrorIs(t, check("query-jobs", `[]`), broke)

	require.ErrorIs(t, s.parted(qmp.ErrClosed), ErrBroken)
	require.ErrorIs(t, s.parted(fs.ErrNotExist), ErrBroken)
	require.ErrorIs(t, s.parted(errScript), errScript)
	require.NotErrorIs(t, s.parted(errScript), ErrBroken)
}

// Two sessions that came at once see each other's nodes, whichever was first.
func TestAlone(t *testing.T) {
	s, other := &snapshot{footprint: newFootprint("/q")}, newFootprint("/q")
	require.NoError(t, s.alone(map[string]node{"disk0": {}, s.filter(0): {}}))
	var busy *hikae.BusyError
	require.ErrorAs(t, s.alone(map[string]node{s.filter(0): {}, other.fleece(1): {}}), &busy)
}

// libvirt that does not answer says nothing about machines; a machine that it knows to be off is off.
func TestGone(t *testing.T) {
	require.True(t, gone(fs.ErrNotExist))
	require.True(t, gone(ErrOff))
	require.False(t, gone(&libvirt.DaemonError{Err: fs.ErrNotExist}))
	require.True(t, gone(&libvirt.Error{Code: libvirt.CodeNoDomain}))
	require.False(t, gone(nil))
	_, err := New([]Machine{{Domain: &Domain{Socket: "/nowhere/sock", URI: "qemu:///system", UUID: "6dc005b0-0797-4c02-a1ab-a1263e1f5e36"}}}, nil).
		Snapshot(t.Context(), "qemu:///system#6dc005b0-0797-4c02-a1ab-a1263e1f5e36", nil)
	var daemon *libvirt.DaemonError
	require.ErrorAs(t, err, &daemon)
}

// What the agent refused is told from an agent that is not there, and from a freeze of which nothing is known.
func TestAgentError(t *testing.T) {
	status, freeze := []byte(`{"execute":"guest-fsfreeze-status"}`), []byte(`{"execute":"guest-fsfreeze-freeze"}`)
	silent := &libvirt.Error{Code: libvirt.CodeAgentUnresponsive, Message: "QEMU guest agent is not connected"}
	require.ErrorIs(t, agentError(silent, status), qga.ErrSilent)
	require.NotErrorIs(t, agentError(silent, freeze), qga.ErrSilent)
	require.True(t, qga.Refused(agentError(&libvirt.Error{Code: 1, Message: "internal error: unable to execute QEMU agent command 'x': no"}, freeze)))
	require.ErrorIs(t, agentError(&libvirt.Error{Code: libvirt.CodeNoAgent}, status), qga.ErrSilent)
	require.ErrorIs(t, agentError(errScript, status), errScript)
	require.NoError(t, agentError(nil, status))
}

func TestOwnerIn(t *testing.T) {
	o, err := ownerIn([]byte(`<domain><seclabel type='dynamic' model='selinux' relabel='yes'><label>s:r:svirt_t:s0:c1,c2</label>
		<imagelabel>s:o:svirt_image_t:s0:c1,c2</imagelabel></seclabel>
		<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label><imagelabel>+64055:+108</imagelabel></seclabel></domain>`))
	require.NoError(t, err)
	require.Equal(t, owner{uid: 64055, gid: 108, label: "s:o:svirt_image_t:s0:c1,c2"}, o)
	o, err = ownerIn([]byte(`<domain><name>x</name></domain>`))
	require.NoError(t, err)
	require.Zero(t, o)
	for _, bad := range []string{"", "<domain", `<domain><seclabel model='dac'><label>root</label></seclabel></domain>`,
		`<domain><seclabel model='dac'><label>-1:-1</label></seclabel></domain>`} {
		_, err := ownerIn([]byte(bad))
		require.Error(t, err, bad)
	}
}

// What is written down of a domain's session is enough to find everything again, and leads nowhere else.
func TestEffectOfDomain(t *testing.T) {
	f := newFootprint("")
	f.Domain = &Domain{Socket: "/run/s", URI: "qemu:///system", UUID: "6dc005b0-0797-4c02-a1ab-a1263e1f5e36"}
	f.Dir = "/var/lib/libvirt/qemu/domain-1-web1"
	e, err := f.effect(kindFleece, nil)
	require.NoError(t, err)
	again, err := footprintOf(e)
	require.NoError(t, err)
	require.Equal(t, f.Domain, again.Domain)
	require.True(t, again.shared())
	require.Equal(t, f.Dir+"/"+f.Mark+"-nbd.sock", again.socket(), "nothing else in a folder of others is ever named")
	for fact, value := range map[string]string{"domain": "web1", "qmp": "/q", "mark": "x", "dir": "relative"} {
		bad, err := f.effect(kindFleece, nil)
		require.NoError(t, err)
		bad.Facts[fact] = value
		_, err = footprintOf(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, fact)
	}
}

func TestCharge(t *testing.T) {
	s := &snapshot{footprint: newFootprint("/q"), machine: Machine{QMP: "/q", Agent: "/a"}, byJob: true}
	s.Dir = "/var/tmp/" + s.Mark
	text, err := s.charge(true)
	require.NoError(t, err)
	c, err := parseCharge(text)
	require.NoError(t, err)
	require.Equal(t, "/a", c.Agent)
	f, err := footprintOf(*c.Jobs)
	require.NoError(t, err)
	require.Equal(t, s.Mark, f.Mark)
	c, err = parseCharge("/run/qga.sock")
	require.NoError(t, err)
	require.Equal(t, charge{Agent: "/run/qga.sock"}, c)
	_, err = parseCharge("{")
	require.Error(t, err)
}
