package vmware

import (
	"context"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// treeView is the server's list of all that is below the root. It belongs to the session, and stays until it is destroyed.
type treeView struct {
	c   *Client
	ref types.ManagedObjectReference
}

var (
	viewPlaces = []string{"Folder", "Datacenter", "ResourcePool", "ComputeResource"}
	viewTypes  = append([]string{"VirtualMachine"}, viewPlaces...)
)

func (c *Client) newView(ctx context.Context) (*treeView, error) {
	if c.vim.ServiceContent.ViewManager == nil {
		return nil, fmt.Errorf("the server has no lists of what there is")
	}
	res, err := methods.CreateContainerView(ctx, c.vim, &types.CreateContainerView{
		This: *c.vim.ServiceContent.ViewManager, Container: c.vim.ServiceContent.RootFolder, Type: viewTypes, Recursive: true})
	if err != nil {
		return nil, err
	}
	return &treeView{c: c, ref: res.Returnval}, nil
}

// close lets the server forget the view; it does so with the session as well.
func (v *treeView) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, _ = methods.DestroyView(ctx, v.c.vim, &types.DestroyView{This: v.ref})
}

// spec asks for what the view shows, and for the root itself, which it does not.
func (v *treeView) spec() types.PropertyFilterSpec {
	skip := true
	spec := types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: v.ref, Skip: &skip, SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"}}}},
		PropSet: []types.PropertySpec{{Type: "VirtualMachine",
			PathSet: []string{"name", "parent", "parentVApp", "resourcePool", "config.template", "config.annotation"}}},
	}
	for _, place := range viewPlaces {
		spec.PropSet = append(spec.PropSet, types.PropertySpec{Type: place, PathSet: []string{"name", "parent"}})
	}
	return spec
}
