package vmware

import (
	"context"
	"fmt"
	"iter"
	"reflect"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const maxObjects = 200_000 // of one question, over all its pages

// pageObjects is how many objects one answer tells of; tests have it smaller.
var pageObjects int32 = 250

// properties reads properties of one object into a value of package mo.
func (c *Client) properties(ctx context.Context, of types.ManagedObjectReference, names []string, into any) error {
	for o, err := range c.objects(ctx, filterOf([]types.ManagedObjectReference{of}, names)) {
		if err != nil {
			return fmt.Errorf("%s: %w", of.Value, err)
		}
		if o.Obj == of {
			return fillIn(o, into)
		}
	}
	return soap.WrapVimFault(&types.ManagedObjectNotFound{Obj: of})
}

// fillIn sets what was told of an object. What the server kept to itself stays zero where the user lacks the right to see it,
// and is an error for any other reason.
func fillIn(o types.ObjectContent, into any) error {
	for _, missing := range o.MissingSet {
		if _, hidden := missing.Fault.Fault.(*types.NoPermission); !hidden && missing.Fault.Fault != nil {
			return fmt.Errorf("%s: %s: %w", o.Obj.Value, missing.Path, soap.WrapVimFault(missing.Fault.Fault))
		}
	}
	o.MissingSet = nil
	return load(o, into)
}

// load turns what the library makes of a property of the wrong type, which is a panic of package reflect, into an error.
func load(o types.ObjectContent, into any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &AnswerError{Object: o.Obj.Value, Path: wrongOf(o, into), Why: fmt.Sprint(p)}
		}
	}()
	return mo.LoadObjectContent([]types.ObjectContent{o}, into)
}

// wrongOf is the first property that cannot be what it is told to be.
func wrongOf(o types.ObjectContent, into any) (path string) {
	defer func() { _ = recover() }() // path is the one that was tried
	for _, p := range o.PropSet {
		path = p.Name
		one := types.ObjectContent{Obj: o.Obj, PropSet: []types.DynamicProperty{p}}
		_ = mo.LoadObjectContent([]types.ObjectContent{one}, reflect.New(reflect.TypeOf(into).Elem()).Interface()) // its panic is what is looked for
	}
	return path
}

// filterOf asks for properties of objects, all of one type.
func filterOf(of []types.ManagedObjectReference, names []string) types.PropertyFilterSpec {
	spec := types.PropertyFilterSpec{PropSet: []types.PropertySpec{{PathSet: names}}}
	for _, ref := range of {
		spec.PropSet[0].Type = ref.Type
		spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
	}
	return spec
}

// objects asks for properties, page by page. An object that goes meanwhile is left out where there are others.
func (c *Client) objects(ctx context.Context, spec types.PropertyFilterSpec) iter.Seq2[types.ObjectContent, error] {
	return func(yield func(types.ObjectContent, error) bool) {
		res, err := methods.RetrievePropertiesEx(ctx, c.vim, &types.RetrievePropertiesEx{
			This: c.vim.ServiceContent.PropertyCollector, SpecSet: []types.PropertyFilterSpec{spec},
			Options: types.RetrieveOptions{MaxObjects: pageObjects}})
		if err != nil {
			yield(types.ObjectContent{}, err)
			return
		}
		page, seen := res.Returnval, 0
		for page != nil {
			for _, o := range page.Objects {
				if seen++; seen > maxObjects {
					yield(types.ObjectContent{}, fmt.Errorf("the server tells of more than %d objects", maxObjects))
					return
				}
				if !yield(o, nil) {
					c.dropPages(ctx, page.Token)
					return
				}
			}
			if page.Token == "" {
				return
			}
			if len(page.Objects) == 0 {
				yield(types.ObjectContent{}, fmt.Errorf("the server promises more objects and tells of none"))
				return
			}
			more, err := methods.ContinueRetrievePropertiesEx(ctx, c.vim, &types.ContinueRetrievePropertiesEx{
				This: c.vim.ServiceContent.PropertyCollector, Token: page.Token})
			if err != nil {
				yield(types.ObjectContent{}, err)
				return
			}
			page = &more.Returnval
		}
	}
}

// dropPages tells the server that nobody wants the rest.
func (c *Client) dropPages(ctx context.Context, token string) {
	if token == "" {
		return
	}
	// The server forgets it with the session as well.
	_, _ = methods.CancelRetrievePropertiesEx(ctx, c.vim, &types.CancelRetrievePropertiesEx{
		This: c.vim.ServiceContent.PropertyCollector, Token: token})
}
