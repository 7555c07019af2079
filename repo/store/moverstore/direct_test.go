package moverstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// direct answers calls from a store in the same process. Every message goes through its bytes, so that what does not
// fit on a line fails here too.
type direct struct {
	t  testing.TB
	st store.Store

	mu      sync.Mutex
	objects map[wire.Ref]*incoming
	lists   map[wire.Ref]func() (store.Info, error, bool)
	stops   []func()
	next    wire.Ref
	calls   map[wire.Kind]int
}

type incoming struct {
	name string
	data []byte
}

func newDirect(t testing.TB, st store.Store) *direct {
	d := &direct{
		t: t, st: st, objects: map[wire.Ref]*incoming{}, calls: map[wire.Kind]int{},
		lists: map[wire.Ref]func() (store.Info, error, bool){},
	}
	t.Cleanup(func() {
		for _, stop := range d.stops {
			stop()
		}
	})
	return d
}

// over takes a message to the other side and back from its bytes.
func over(m wire.Message) (wire.Message, error) {
	b, err := wire.Append(nil, wire.Frame{Call: 1, Message: m})
	if err != nil {
		return nil, err
	}
	f, err := wire.NewReader(bytes.NewReader(b)).Read()
	return f.Message, err
}

func (d *direct) Call(ctx context.Context, req wire.Message) (wire.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := over(req)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.calls[req.Kind()]++
	d.mu.Unlock()
	answer, err := d.handle(ctx, req)
	if errors.Is(err, mover.ErrLostSession) {
		return nil, err // as every later call in a session that was lost
	}
	if err != nil {
		answer = &wire.Fail{Code: codeOf(err), Text: err.Error()}
	}
	if answer, err = over(answer); err != nil {
		return nil, err
	}
	if fail, ok := answer.(*wire.Fail); ok {
		return nil, fail
	}
	return answer, nil
}

func codeOf(err error) wire.Code {
	for code, is := range map[wire.Code]error{
		wire.CodeNotFound: fs.ErrNotExist, wire.CodeExists: fs.ErrExist, wire.CodeInvalid: fs.ErrInvalid,
		wire.CodeForbidden: fs.ErrPermission, wire.CodeForeign: store.ErrForeign, wire.CodeNotDurable: store.ErrNotDurable,
	} {
		if errors.Is(err, is) {
			return code
		}
	}
	return wire.CodeFailed
}

func (d *direct) handle(ctx context.Context, req wire.Message) (wire.Message, error) {
	switch m := req.(type) {
	case *wire.StoreOpen:
		d.mu.Lock()
		defer d.mu.Unlock()
		d.next++
		d.objects[d.next] = &incoming{m.Name, make([]byte, m.Size)}
		return &wire.StoreOpened{Object: d.next}, nil
	case *wire.StorePart:
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.objects[m.Object] == nil {
			return nil, mover.ErrLostSession
		}
		copy(d.objects[m.Object].data[m.Off:], m.Data)
		return &wire.OK{}, nil
	case *wire.StoreSeal:
		o := d.take(m.Object)
		if o == nil {
			return nil, mover.ErrLostSession
		}
		return &wire.OK{}, d.st.Create(ctx, o.name, o.data)
	case *wire.StoreDrop:
		d.take(m.Object)
		return &wire.OK{}, nil
	case *wire.StoreRead:
		p := make([]byte, m.Len)
		n, err := d.st.ReadAt(ctx, m.Name, p, m.Off)
		if err == io.EOF {
			err = nil
		}
		return &wire.Content{Plain: uint32(n), Data: p[:n]}, err
	case *wire.StoreStat:
		info, err := d.st.Stat(ctx, m.Name)
		return &wire.StoreSize{Size: info.Size}, err
	case *wire.StoreRemove:
		return &wire.OK{}, d.st.Remove(ctx, m.Name)
	case *wire.StoreProbe:
		a, err := d.st.(store.Prober).Probe(ctx)
		return &wire.StoreIs{ExclusiveCreate: a.ExclusiveCreate, DurableNames: a.DurableNames, FreshReads: a.FreshReads, Free: math.MaxInt64}, err
	case *wire.StoreList:
		return d.list(ctx, m)
	}
	return nil, fmt.Errorf("%v is not for a store", req.Kind())
}

func (d *direct) take(ref wire.Ref) *incoming {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.objects[ref]
	delete(d.objects, ref)
	return o
}

func (d *direct) list(ctx context.Context, m *wire.StoreList) (wire.Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.List == 0 {
		next, stop := iter.Pull2(d.st.List(context.WithoutCancel(ctx), m.Prefix))
		d.stops = append(d.stops, stop)
		d.next++
		m.List = d.next
		d.lists[m.List] = next
	}
	if d.lists[m.List] == nil {
		return nil, mover.ErrLostSession
	}
	out := &wire.StoreNames{List: m.List}
	for range 7 { // small parts, so that the suite goes through several
		info, err, ok := d.lists[m.List]()
		if err != nil || !ok {
			return out, err
		}
		out.Names = append(out.Names, wire.StoreName{Name: info.Name, Size: info.Size})
	}
	out.More = true
	return out, nil
}

// begun is how many objects were announced and neither sealed nor dropped.
func (d *direct) begun() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.objects)
}

func (d *direct) count(k wire.Kind) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[k]
}

// over1 is a store over one session that never changes.
func over1(c moverstore.Caller) *moverstore.Store {
	return moverstore.New(func(context.Context) (moverstore.Caller, error) { return c, nil })
}

// scripted is another side that answers as the test likes.
type scripted func(ctx context.Context, req wire.Message) (wire.Message, error)

func (s scripted) Call(ctx context.Context, req wire.Message) (wire.Message, error) {
	return s(ctx, req)
}

func always(m wire.Message) scripted {
	return func(context.Context, wire.Message) (wire.Message, error) { return m, nil }
}

func failing(m *wire.Fail) scripted {
	return func(context.Context, wire.Message) (wire.Message, error) { return nil, m }
}

func requireNoNames(t *testing.T, seq iter.Seq2[store.Info, error], part string) {
	t.Helper()
	var last error
	for _, err := range seq {
		last = err
	}
	require.ErrorContains(t, last, part)
}
