package logs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// guest is a component whose logs a test chooses.
type guest struct {
	mu      sync.Mutex
	logs    []wire.Log
	gap     string
	begun   int
	ended   int
	swept   int // ended without a name
	anew    bool
	shipped []string
	open    int
	opened  int
	calls   int

	fail  func(call int) error        // of each call
	bytes func(log wire.Log) []byte   // what is sent in place of what is right
	block func(context.Context)       // in each listing
	sum   func(b []byte) (sum []byte) // what is told
}

const segment = 1 << 20

// write makes n more logs, of which the last one has a mark.
func (g *guest) write(n int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := int64(1)
	if len(g.logs) > 0 {
		last, _ := record.SegmentNumber(g.logs[len(g.logs)-1].Name, segment)
		next = last + 1
	}
	for i := range n {
		g.logs = append(g.logs, wire.Log{Name: record.SegmentName("00000001", next+int64(i), segment), Size: segment,
			Time: now.Format(time.RFC3339Nano), Mark: i == n-1})
	}
}

func content(l wire.Log) []byte {
	return bytes.Repeat([]byte(l.Name+"\n"), int(l.Size)/(len(l.Name)+1)+1)[:l.Size]
}

func (g *guest) opener(context.Context, string) (Keeper, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
	g.opened++
	return &component{g: g}, nil
}

// deployed is how many components are in the guest.
func (g *guest) deployed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// component is one deployment in a guest.
type component struct {
	g      *guest
	listed bool
}

func (c *component) enter() error {
	c.g.calls++
	if c.g.fail != nil {
		return c.g.fail(c.g.calls)
	}
	return nil
}

func (c *component) Logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error) {
	if c.g.block != nil {
		c.g.block(ctx)
	}
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if err := c.enter(); err != nil {
		return wire.LogsAnswer{}, err
	}
	if args.Begin {
		c.g.begun++
	}
	switch {
	case args.End && args.Kind == "":
		c.g.swept++
	case args.End:
		c.g.ended++
	}
	c.listed = true
	return wire.LogsAnswer{Timeline: "00000001", Logs: slices.Clone(c.g.logs), Gap: c.g.gap, New: c.g.anew}, nil
}

func (c *component) Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (wire.FetchAnswer, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if err := c.enter(); err != nil {
		return wire.FetchAnswer{}, err
	}
	if !c.listed {
		return wire.FetchAnswer{}, &wire.Failure{Code: wire.CodeState, Message: "not listed"}
	}
	at := slices.IndexFunc(c.g.logs, func(l wire.Log) bool { return l.Name == args.Log })
	if at < 0 {
		return wire.FetchAnswer{}, &wire.Failure{Code: wire.CodeMissing}
	}
	b := content(c.g.logs[at])
	if c.g.bytes != nil {
		b = c.g.bytes(c.g.logs[at])
	}
	if _, err := to.Write(b); err != nil {
		return wire.FetchAnswer{}, err
	}
	sum := sha256.Sum256(b)
	answer := wire.FetchAnswer{Bytes: int64(len(b)), SHA256: sum[:]}
	if c.g.sum != nil {
		answer.SHA256 = c.g.sum(b)
	}
	return answer, nil
}

func (c *component) Shipped(_ context.Context, args wire.ShippedArgs) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if err := c.enter(); err != nil {
		return err
	}
	c.g.shipped = append(c.g.shipped, args.Logs...)
	c.g.logs = slices.DeleteFunc(c.g.logs, func(l wire.Log) bool { return slices.Contains(args.Logs, l.Name) && !l.Mark })
	return nil
}

func (c *component) Close() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.open--
	return nil
}

// memory is a Store in memory.
type memory struct {
	mu   sync.Mutex
	n    int
	logs []Log
	data map[string][]byte
	fail func(step string) error
}

func (m *memory) step(name string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(name)
}

type memoryBatch struct {
	m         *memory
	container string
	logs      []Log
	data      map[string][]byte
}

func (m *memory) Begin(_ context.Context, _ Stream, container string) (Batch, error) {
	return &memoryBatch{m: m, container: container, data: map[string][]byte{}}, m.step("begin")
}

func (b *memoryBatch) Put(_ context.Context, l Log, r io.Reader) error {
	if err := b.m.step("put"); err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err == nil && int64(len(data)) != l.Size {
		err = fmt.Errorf("%d bytes", len(data))
	}
	l.SHA256, l.Container = sha256.Sum256(data), b.container
	b.logs, b.data[l.Name] = append(b.logs, l), data
	return err
}

func (b *memoryBatch) Commit(context.Context) error {
	if err := b.m.step("commit"); err != nil {
		return err
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	b.m.n++
	for _, l := range b.logs {
		l.Batch = fmt.Sprint("batch-", b.m.n)
		b.m.logs = append(b.m.logs, l)
		if b.m.data == nil {
			b.m.data = map[string][]byte{}
		}
		b.m.data[l.Batch+l.Name] = b.data[l.Name]
	}
	return nil
}

func (b *memoryBatch) Close() error { return nil }

func (m *memory) Logs(context.Context, Stream) iter.Seq2[Log, error] {
	m.mu.Lock()
	logs := slices.Clone(m.logs)
	m.mu.Unlock()
	return func(yield func(Log, error) bool) {
		for _, l := range logs {
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (m *memory) Open(_ context.Context, _ Stream, l Log) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return io.NopCloser(bytes.NewReader(m.data[l.Batch+l.Name])), nil
}

func (m *memory) all() []Log {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.logs)
}

func (m *memory) names() (all []string) {
	for l := range m.Logs(context.Background(), Stream{}) {
		all = append(all, l.Name)
	}
	return all
}

var errLink = errors.New("the link broke")
