package outcome

import (
	"errors"
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/vmware"
)

// What to do about a vSphere that does not do what was asked.
const (
	otherCertificate = "The server shows another certificate than the address says. Find out why before you go on."
	unknownAuthority = "Add &ca=FILE with the authority's certificate, or &thumbprint= after you have compared it on the server itself."
	wrongLogin       = "Check the user in the address and HIKAE_SOURCE_PASSWORD. vCenter wants the user's domain, too: backup@vsphere.local is written backup%40vsphere.local in an address."
	freeLicence      = "The free ESXi, and expired licences, have no API for backups: the host needs a licence that includes the vStorage APIs."
	moreRights       = "`hikae vsphere check` names every privilege that is missing, and where; docs/vmware.md says what each is for."
	wayToDisk        = "docs/vmware.md says what each transport needs; &transport= names others."
	whatStops        = "`hikae vsphere check` says more. &check=off goes on all the same, where you know better."
)

// vsphereRules are lines of the table for errors of vSphere.
func vsphereRules() []rule {
	return []rule{
		{as[*vmware.ThumbprintError], KindPermission, Failed, otherCertificate},
		{as[*vmware.UntrustedError], KindPermission, Failed, unknownAuthority},
		{vmware.IsFault[*types.InvalidLogin], KindSecret, Failed, wrongLogin},
		{vmware.IsFault[*types.RestrictedVersion], KindUnsupported, Failed, freeLicence},
		{lacksRights, KindPermission, Failed, moreRights},
		{as[*vmware.PreflightError], KindFailed, Failed, whatStops},
		{vmware.IsFault[*types.NoPermission], KindPermission, Failed, moreRights},
		{as[*vmware.NoTransportError], KindUnsupported, Failed, wayToDisk},
		{as[*vmware.AmbiguousError], KindAmbiguous, Failed, "`hikae vsphere list` shows the reference of each, which &vm= takes too."},
	}
}

// lacksRights reports a VM whose backup was not tried, for want of privileges if nothing else.
func lacksRights(err error) bool {
	stopped, ok := errors.AsType[*vmware.PreflightError](err)
	return ok && len(stopped.Preflight.Missing) > 0
}

// vsphereMessage is an error of vSphere in words for people: what a server's client says on the way there names the server
// four times over. Empty where it is another error.
func vsphereMessage(err error) string {
	if e, ok := errors.AsType[*vmware.ThumbprintError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*vmware.UntrustedError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*vmware.NoTransportError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*vmware.PreflightError](err); ok {
		return e.Error()
	}
	if vmware.IsFault[*types.InvalidLogin](err) {
		return "the server does not take this user with this password"
	}
	if vmware.IsFault[*types.RestrictedVersion](err) {
		return "the licence of the server, or of the host, forbids that by its API"
	}
	if f, ok := vmware.AsFault[*types.NoPermission](err); ok && f.PrivilegeId != "" {
		return fmt.Sprintf("%v: the privilege %s is missing on %s", err, f.PrivilegeId, objectOf(f))
	}
	return ""
}

func objectOf(f *types.NoPermission) string {
	if f.Object == nil {
		return "an object that the server does not name"
	}
	return f.Object.Value
}

// vsphereObject is the disk or VM that an error of vSphere is about.
func vsphereObject(err error) string {
	if e, ok := errors.AsType[*vmware.NoTransportError](err); ok {
		return e.Choice.Disk
	}
	if e, ok := errors.AsType[*vmware.PreflightError](err); ok {
		return e.Preflight.Name
	}
	return ""
}
