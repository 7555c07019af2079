package outcome

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/vmware"
)

// What vSphere says is told once, with the kind that scripts branch on and the object that it is about.
func TestVSphere(t *testing.T) {
	fault := func(f types.AnyType) error {
		sf := &soap.Fault{String: "ServerFaultCode: no"}
		sf.Detail.Fault = f
		return fmt.Errorf("https://vc: call: %w", soap.WrapSoapFault(sf))
	}
	stopped := &vmware.Preflight{Name: "web1", Findings: []vmware.Finding{{Severity: vmware.Stop, Object: "VM web1", What: "it waits for an answer"}}}
	lacking := *stopped
	lacking.Missing = []vmware.MissingRight{{Privilege: "VApp.Export"}}
	for name, c := range map[string]struct {
		err             error
		kind            Kind
		message, object string
	}{
		"thumbprint":   {fmt.Errorf("a: b: %w", &vmware.ThumbprintError{Address: "vc:443", Want: "A", Got: "B"}), KindPermission, "log in: vc:443 shows a certificate with the thumbprint B, not A", ""},
		"untrusted":    {fmt.Errorf("a: %w", &vmware.UntrustedError{Address: "vc:443", Thumbprint: "B", Err: errors.New("who is that")}), KindPermission, "log in: the certificate of vc:443 is not trusted: who is that (if its SHA-256 thumbprint is right, name it: B)", ""},
		"login":        {fault(types.InvalidLogin{}), KindSecret, "log in: the server does not take this user with this password", ""},
		"licence":      {fault(types.RestrictedVersion{}), KindUnsupported, "log in: the licence of the server, or of the host, forbids that by its API", ""},
		"no transport": {fmt.Errorf("disk k: open: %w", &vmware.NoTransportError{Choice: vmware.Choice{Disk: "k"}}), KindUnsupported, "log in: disk k: no transport", "k"},
		"stopped":      {fmt.Errorf("x: %w", &vmware.PreflightError{Preflight: stopped}), KindFailed, "log in: VM web1: it waits for an answer", "web1"},
		"lacking":      {&vmware.PreflightError{Preflight: &lacking}, KindPermission, "log in: VM web1: it waits for an answer", "web1"},
		"ambiguous":    {&vmware.AmbiguousError{Kind: "VM", Name: "web1", Found: []string{"/a", "/b"}}, KindAmbiguous, `log in: VM "web1" is several: /a, /b`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := Of(&Error{Text: "log in", Err: c.err})
			require.Equal(t, c.kind, p.Kind)
			require.Equal(t, c.message, p.Message)
			require.Equal(t, c.object, p.Object)
			require.NotEmpty(t, p.Hint)
			require.Equal(t, Failed, p.Status())
		})
	}
}
