package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi/sts"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
)

const (
	maxTags     = 10_000
	tagsTimeout = 5 * time.Minute // for all questions about tags together
)

// tagged are the references of VMs that have one of the tags.
func (c *Client) tagged(ctx context.Context, names []string) (map[string]bool, error) {
	if !c.IsVCenter() {
		return nil, fmt.Errorf("tags: %w: a single host has none", errors.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, tagsTimeout)
	defer cancel()
	rc, err := c.restLogIn(ctx)
	if err != nil {
		return nil, fmt.Errorf("tags: log in: %w", err)
	}
	defer func() {
		out, stop := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
		defer stop()
		_ = rc.Logout(out) // a session that nobody uses ends by itself
	}()
	manager := tags.NewManager(rc)
	out := map[string]bool{}
	for _, name := range names {
		id, err := tagID(ctx, manager, name)
		if err != nil {
			return nil, err
		}
		refs, err := manager.ListAttachedObjects(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("tag %q: %w", name, err)
		}
		for _, ref := range refs {
			if r := ref.Reference(); r.Type == "VirtualMachine" {
				out[r.Value] = true
			}
		}
	}
	return out, nil
}

// restLogIn logs in where tags are kept: a service beside that of the other calls, with sessions of its own.
func (c *Client) restLogIn(ctx context.Context) (*rest.Client, error) {
	who := c.login.who
	if who.Session != "" {
		return nil, fmt.Errorf("%w: a session that was handed in is not valid there; a user or a token is needed", errors.ErrUnsupported)
	}
	rc := rest.NewClient(c.vim)
	rc.Client.Client.CheckRedirect = stayHere
	rc.Client.Client.Transport = &boundedAnswers{below: c.vim.Client.DefaultTransport()}
	if who.Token != "" {
		return rc, rc.LoginByToken(rc.WithSigner(ctx, &sts.Signer{Token: who.Token}))
	}
	return rc, rc.Login(ctx, url.UserPassword(who.User, who.Password))
}

// boundedAnswers bounds what answers may hold.
type boundedAnswers struct{ below http.RoundTripper }

func (b *boundedAnswers) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.below.RoundTrip(req)
	if err == nil {
		res.Body = &boundedBody{ReadCloser: res.Body, left: maxAnswer}
	}
	return res, err
}

// tagID finds a tag by NAME or CATEGORY:NAME. A name that has a colon itself is found too.
func tagID(ctx context.Context, manager *tags.Manager, name string) (string, error) {
	ids, err := manager.ListTags(ctx)
	if err != nil {
		return "", fmt.Errorf("tags: %w", err)
	}
	if len(ids) > maxTags {
		return "", fmt.Errorf("tags: the server has more than %d", maxTags)
	}
	var found []string
	var id string
	for _, i := range ids {
		tag, err := manager.GetTag(ctx, i)
		if err != nil {
			return "", fmt.Errorf("tag %s: %w", i, err)
		}
		if tag.Name != name && !strings.HasSuffix(name, ":"+tag.Name) {
			continue
		}
		category, err := manager.GetCategory(ctx, tag.CategoryID)
		if err != nil {
			return "", fmt.Errorf("tag %q: %w", name, err)
		}
		full := category.Name + ":" + tag.Name
		if full == name {
			return tag.ID, nil
		}
		if tag.Name == name {
			found, id = append(found, full), tag.ID
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("tag %q: %w", name, fs.ErrNotExist)
	case 1:
		return id, nil
	}
	return "", ambiguous("tag", name, found)
}
