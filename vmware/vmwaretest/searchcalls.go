package vmwaretest

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// searchCalls are the calls on the search index.
type searchCalls struct{ overlaid }

// FindByUuid looks at machines and hosts alone, each under its lock, and takes a UUID in any case. The simulator looks at everything
// in its registry.
func (c *searchCalls) FindByUuid(ctx *simulator.Context, req *types.FindByUuid) soap.HasFault {
	body := &methods.FindByUuidBody{Res: new(types.FindByUuidResponse)}
	if req.Uuid == "" {
		return body
	}
	kind := "HostSystem"
	if req.VmSearch {
		kind = "VirtualMachine"
	}
	for _, e := range c.s.reg.All(kind) {
		var uuid string
		ctx.WithLock(e, func() {
			switch e := e.(type) {
			case *simulator.HostSystem:
				if e.Summary.Hardware != nil {
					uuid = e.Summary.Hardware.Uuid
				}
			case *simulator.VirtualMachine:
				if uuid = e.Config.Uuid; req.InstanceUuid != nil && *req.InstanceUuid {
					uuid = e.Config.InstanceUuid
				}
			}
		})
		if strings.EqualFold(uuid, req.Uuid) {
			ref := e.Reference()
			body.Res.Returnval = &ref
			break
		}
	}
	return body
}
