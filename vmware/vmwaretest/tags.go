package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/vmware/govmomi/vapi/rest"
	_ "github.com/vmware/govmomi/vapi/simulator" // the service that keeps tags joins every server by being imported
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

// Tag gives the machine a tag of a category, over the wire as anybody would. Both are made where they are missing.
func (v *VM) Tag(category, tag string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := vim25.NewClient(ctx, soap.NewClient(v.s.URL(), true))
	if err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	defer c.CloseIdleConnections()
	rc := rest.NewClient(c)
	defer rc.CloseIdleConnections()
	if err := rc.Login(ctx, url.UserPassword(v.s.User(), v.s.Password())); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	err = attach(ctx, tags.NewManager(rc), v, category, tag)
	if err = errors.Join(err, rc.Logout(ctx)); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	return nil
}

func attach(ctx context.Context, m *tags.Manager, v *VM, category, tag string) error {
	if _, err := m.GetCategory(ctx, category); err != nil {
		if _, err := m.CreateCategory(ctx, &tags.Category{Name: category, Cardinality: "MULTIPLE"}); err != nil {
			return err
		}
	}
	t, err := m.GetTagForCategory(ctx, tag, category)
	if err != nil {
		id, err := m.CreateTag(ctx, &tags.Tag{Name: tag, CategoryID: category})
		if err != nil {
			return err
		}
		return m.AttachTag(ctx, id, v.ref)
	}
	return m.AttachTag(ctx, t.ID, v.ref)
}
