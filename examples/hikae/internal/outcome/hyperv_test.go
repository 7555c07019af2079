package outcome

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/helper"
)

// Each error of Hyper-V has its kind for scripts and its hint for people, however deep it lies, and a VM where it is about one.
func TestHyperV(t *testing.T) {
	found := &hyperv.Preflight{Name: "web1", Findings: []hyperv.Finding{{Severity: hyperv.Stop, Object: "VM web1", What: "it is shielded"}}}
	refused := &hyperv.Preflight{Name: "web1", Findings: []hyperv.Finding{{Severity: hyperv.Stop, Name: hyperv.FindRights, Object: "host HV1", What: "it may not read C$", Hint: "be an administrator of the host"}}}
	for _, c := range []struct {
		err                 error
		kind                Kind
		message, hint, what string
	}{
		{&cim.ReachError{Addr: "hv1:5985", Step: "login", Err: fs.ErrPermission}, KindSecret, "does not take this user", "HIKAE_SOURCE_PASSWORD", ""},
		{&cim.ReachError{Addr: "hv1:5986", Step: "certificate", Err: errors.New("x509")}, KindPermission, "certificate", "&ca=FILE", ""},
		{&cim.ReachError{Addr: "hv1:5985", Step: "rights", Err: fs.ErrPermission}, KindPermission, "rights", "Hyper-V Administrators", ""},
		{&cim.ReachError{Addr: "hv1:5985", Step: "connect", Err: errors.New("refused")}, KindFailed, "connect", "5985", ""},
		{&cim.ReachError{Addr: "hv1:5985", Step: "connect", Hint: "its own", Err: errors.New("refused")}, KindFailed, "connect", "its own", ""},
		{refused.Err(), KindFailed, "may not", "an administrator", "web1"}, // not &check=off: that would not help
		{&cim.ReachError{Addr: "hv1:5986", Step: "certificate", Err: errors.New("unknown")}, KindPermission, "certificate", "&thumbprint=", ""},
		{found.Err(), KindFailed, "it is shielded", "hikae hyperv check", "web1"},
		{&hyperv.PlanError{VM: "1", Name: "web1", Asked: "off-host"}, KindUnsupported, "off-host is not possible", "each condition", "web1"},
		{&hyperv.UnprovenError{VM: "1", What: "checkpoint", Hint: "look there"}, KindFailed, "nothing proves it", "look there", ""},
		{&hyperv.AmbiguousError{Name: "web1", IDs: []string{"1", "2"}}, KindAmbiguous, "2 VMs", "hikae hyperv list", ""},
		{&hyperv.RoomError{Folder: `D:\`, Need: 2, Free: 1}, KindNoSpace, "1 bytes free", "&path=", ""},
		{&hyperv.PowerOnError{VM: "web1", Err: errors.New("no memory")}, KindFailed, "is whole", "Hyper-V Manager", ""},
		{helper.ErrBusy, KindBusy, "another program", "other backup", ""},
		{helper.ErrWriter, KindFailed, "writer", "vssadmin", ""},
		{ErrNoHelper, KindNotFound, "no helper", "make agents", ""},
	} {
		p := Of(fmt.Errorf("snapshot: %w", c.err))
		require.Equal(t, c.kind, p.Kind, "%v", c.err)
		require.Equal(t, Failed, p.Status())
		require.Contains(t, p.Message, c.message)
		require.Contains(t, p.Hint, c.hint)
		require.Equal(t, c.what, p.Object)
	}
}
