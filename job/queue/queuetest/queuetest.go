// Package queuetest is what a queue must do, as a suite for its implementers. It returns errors, so that it also checks a live
// installation: each run works under labels and tables of its own and leaves nothing there.
package queuetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// Check is one thing that a queue must do.
type Check struct {
	Name string
	run  func(ctx context.Context, q queue.Queue, name string) error
}

// Checks are all of them. A queue with a lease of a second passes each in a few.
var Checks = []Check{
	{"PutIsIdempotent", putIsIdempotent},
	{"BadMessagesAreRefused", badMessages},
	{"OnlyWhatIsReachedIsTaken", onlyReached},
	{"ALeaseThatRunsOutGivesToTheNext", leaseRunsOut},
	{"ExtendKeeps", extendKeeps},
	{"FailWaits", failWaits},
	{"DeadLetters", deadLetters},
	{"EachMessageOnce", eachOnce},
	{"CompareAndSet", compareAndSet},
	{"OneOfManyWins", oneWins},
	{"ListAndWatch", listAndWatch},
	{"Claims", claims},
	{"TakeEndsWithItsContext", takeEnds},
}

// Run does the check on a queue.
func (c Check) Run(ctx context.Context, q queue.Queue) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+10*q.Lease())
	defer cancel()
	name := "t" + strings.ToLower(rand.Text()[:10])
	if err := c.run(ctx, q, name); err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	return nil
}

func message(name, id string) queue.Message {
	return queue.Message{ID: name + "/" + id, Label: name, Body: json.RawMessage(`{"vm":"` + id + `"}`)}
}

func put(ctx context.Context, q queue.Queue, m queue.Message, want bool) error {
	added, err := q.Put(ctx, m)
	if err == nil && added != want {
		err = fmt.Errorf("put %s: added is %v", m.ID, added)
	}
	return err
}

// take takes a message that must be there soon.
func take(ctx context.Context, q queue.Queue, labels ...string) (queue.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second+3*q.Lease())
	defer cancel()
	return q.Take(ctx, labels)
}

// none makes sure that there is nothing to take for a while.
func none(ctx context.Context, q queue.Queue, wait time.Duration, labels ...string) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	d, err := q.Take(ctx, labels)
	if err == nil {
		return fmt.Errorf("%s was given though nobody should have it", d.Message().ID)
	}
	if ctx.Err() == nil {
		return err
	}
	return nil
}

func putIsIdempotent(ctx context.Context, q queue.Queue, name string) error {
	m := message(name, "a")
	if err := errors.Join(put(ctx, q, m, true), put(ctx, q, m, false)); err != nil {
		return err
	}
	d, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	if got := d.Message(); got.ID != m.ID || got.Label != m.Label || string(got.Body) != string(m.Body) || d.Number() != 1 {
		return fmt.Errorf("delivery %d of %+v", d.Number(), got)
	}
	if err := errors.Join(put(ctx, q, m, false), d.Done(ctx), none(ctx, q, 200*time.Millisecond, name)); err != nil {
		return err
	}
	return d.Done(ctx) // again: it is gone, and that was wanted
}

func badMessages(ctx context.Context, q queue.Queue, name string) error {
	for what, m := range map[string]queue.Message{
		"no id":       {Label: name, Body: json.RawMessage(`{}`)},
		"no label":    {ID: "x", Body: json.RawMessage(`{}`)},
		"no JSON":     {ID: "x", Label: name, Body: json.RawMessage(`{`)},
		"a long id":   {ID: strings.Repeat("x", queue.MaxID+1), Label: name, Body: json.RawMessage(`{}`)},
		"a long body": {ID: "x", Label: name, Body: json.RawMessage(`"` + strings.Repeat("x", queue.MaxBody) + `"`)},
	} {
		if _, err := q.Put(ctx, m); !errors.Is(err, queue.ErrInvalid) {
			return fmt.Errorf("a message with %s: %v", what, err)
		}
	}
	return none(ctx, q, 100*time.Millisecond, name)
}

func onlyReached(ctx context.Context, q queue.Queue, name string) error {
	strange := message(name+" *.>/\u00e9", "b")
	if err := errors.Join(put(ctx, q, strange, true), none(ctx, q, 200*time.Millisecond, name)); err != nil {
		return err
	}
	d, err := take(ctx, q, name, strange.Label)
	if err != nil {
		return err
	}
	return d.Done(ctx)
}

func leaseRunsOut(ctx context.Context, q queue.Queue, name string) error {
	if err := put(ctx, q, message(name, "a"), true); err != nil {
		return err
	}
	first, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	second, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	if second.Number() < 2 {
		return fmt.Errorf("the second delivery has number %d", second.Number())
	}
	if err := first.Extend(ctx); !errors.Is(err, queue.ErrLost) {
		return fmt.Errorf("extending a lease that ran out: %v", err)
	}
	return second.Done(ctx)
}

func extendKeeps(ctx context.Context, q queue.Queue, name string) error {
	if err := put(ctx, q, message(name, "a"), true); err != nil {
		return err
	}
	d, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	other := make(chan error, 1)
	go func() { other <- none(ctx, q, 2*q.Lease(), name) }()
	for range 6 {
		select {
		case <-time.After(q.Lease() / 3):
		case <-ctx.Done():
		}
		if err := d.Extend(ctx); err != nil {
			return errors.Join(err, <-other)
		}
	}
	return errors.Join(<-other, d.Done(ctx))
}

func failWaits(ctx context.Context, q queue.Queue, name string) error {
	if err := put(ctx, q, message(name, "a"), true); err != nil {
		return err
	}
	d, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := d.Fail(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	if d, err = take(ctx, q, name); err != nil {
		return err
	}
	if waited := time.Since(begun); waited < 450*time.Millisecond {
		return fmt.Errorf("given again after %s", waited)
	}
	return d.Done(ctx)
}

func deadLetters(ctx context.Context, q queue.Queue, name string) error {
	m := message(name, "a")
	if err := put(ctx, q, m, true); err != nil {
		return err
	}
	d, err := take(ctx, q, name)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Bury(ctx, "no such VM"), none(ctx, q, q.Lease()*3/2, name)); err != nil {
		return err
	}
	found := 0
	for dead, err := range q.Dead(ctx) {
		if err != nil {
			return err
		}
		if dead.Message.ID == m.ID && dead.Why == "no such VM" && !dead.Time.IsZero() {
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("%d dead letters of the id", found)
	}
	if err := q.Revive(ctx, name+"/other"); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reviving what is not dead: %v", err)
	}
	if err := q.Revive(ctx, m.ID); err != nil {
		return err
	}
	if d, err = take(ctx, q, name); err != nil {
		return err
	}
	return d.Done(ctx)
}

func eachOnce(ctx context.Context, q queue.Queue, name string) error {
	const messages, workers = 60, 4
	for i := range messages {
		if err := put(ctx, q, message(name, fmt.Sprint(i)), true); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			for {
				d, err := q.Take(ctx, []string{name})
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					err = d.Done(ctx)
				}
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				seen[d.Message().ID]++
				if len(seen) == messages {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(errs)
	for id, n := range seen {
		if n != 1 {
			return fmt.Errorf("%s was given %d times", id, n)
		}
	}
	if len(seen) != messages {
		return errors.Join(fmt.Errorf("%d of %d messages", len(seen), messages), <-errs)
	}
	return nil
}

func compareAndSet(ctx context.Context, q queue.Queue, name string) error {
	t, err := q.Table(ctx, "test")
	if err != nil {
		return err
	}
	key := queue.Key(name, "a b/\u00e9*.>", "")
	if _, err := t.Get(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("a key that is not there: %v", err)
	}
	r1, err := t.Create(ctx, key, []byte("one"))
	if err != nil {
		return err
	}
	if _, err := t.Create(ctx, key, []byte("two")); !errors.Is(err, queue.ErrConflict) {
		return fmt.Errorf("created twice: %v", err)
	}
	r2, err := t.Update(ctx, key, []byte("two"), r1)
	if err != nil {
		return err
	}
	if _, err := t.Update(ctx, key, []byte("three"), r1); !errors.Is(err, queue.ErrConflict) || r2 <= r1 {
		return fmt.Errorf("changed by an old revision: %v", err)
	}
	if err := t.Delete(ctx, key, r1); !errors.Is(err, queue.ErrConflict) {
		return fmt.Errorf("removed by an old revision: %v", err)
	}
	if e, err := t.Get(ctx, key); err != nil || string(e.Value) != "two" || e.Revision != r2 || e.Key != key {
		return fmt.Errorf("%+v: %w", e, err)
	}
	if err := errors.Join(t.Delete(ctx, key, r2), t.Delete(ctx, key, r2)); err != nil {
		return err
	}
	if _, err := t.Update(ctx, key, []byte("x"), r2); !errors.Is(err, queue.ErrConflict) {
		return fmt.Errorf("changed what is gone: %v", err)
	}
	r3, err := t.Create(ctx, key, []byte("again"))
	if err != nil || r3 <= r2 {
		return fmt.Errorf("revision %d after %d: %w", r3, r2, err)
	}
	_, big := t.Create(ctx, queue.Key(name, "big"), make([]byte, queue.MaxBody+1))
	_, bad := t.Create(ctx, name+".a b", nil)
	if !errors.Is(big, queue.ErrInvalid) || !errors.Is(bad, queue.ErrInvalid) {
		return fmt.Errorf("out of bounds: %v, %v", big, bad)
	}
	return t.Delete(ctx, key, r3)
}

func oneWins(ctx context.Context, q queue.Queue, name string) error {
	t, err := q.Table(ctx, "test")
	if err != nil {
		return err
	}
	key := queue.Key(name, "counter")
	if _, err := t.Create(ctx, key, []byte{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	const each = 10
	errs := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			for done := 0; done < each; {
				e, err := t.Get(ctx, key)
				if err == nil {
					_, err = t.Update(ctx, key, append(slices.Clone(e.Value), 'x'), e.Revision)
				}
				switch {
				case err == nil:
					done++
				case !errors.Is(err, queue.ErrConflict):
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	e, err := t.Get(ctx, key)
	if err := errors.Join(err, <-errs); err != nil {
		return err
	}
	if len(e.Value) != 4*each {
		return fmt.Errorf("%d changes of %d are there", len(e.Value), 4*each)
	}
	return t.Delete(ctx, key, e.Revision)
}

func listAndWatch(ctx context.Context, q queue.Queue, name string) error {
	t, err := q.Table(ctx, "test")
	if err != nil {
		return err
	}
	a, b, other := queue.Key(name, "p", "a"), queue.Key(name, "p", "b"), queue.Key(name, "pp")
	ra, err := t.Create(ctx, a, []byte("1"))
	if err != nil {
		return err
	}
	ro, err := t.Create(ctx, other, []byte("1"))
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var rb uint64
	var story []string
	for e, err := range t.Watch(watching, queue.Key(name, "p")) {
		if err != nil {
			return err
		}
		story = append(story, fmt.Sprintf("%s=%s gone=%v", strings.TrimPrefix(e.Key, name), e.Value, e.Gone))
		switch len(story) {
		case 1:
			rb, err = t.Create(ctx, b, []byte("2"))
		case 2:
			err = t.Delete(ctx, a, ra)
		}
		if err != nil {
			return err
		}
		if len(story) == 3 {
			break
		}
	}
	if want := []string{".p.a=1 gone=false", ".p.b=2 gone=false", ".p.a= gone=true"}; !slices.Equal(story, want) {
		return fmt.Errorf("watched %q", story)
	}
	n := 0
	for e, err := range t.List(ctx, queue.Key(name, "p")) {
		if err != nil || e.Key != b || e.Gone {
			return fmt.Errorf("listed %+v: %w", e, err)
		}
		n++
	}
	if n != 1 {
		return fmt.Errorf("%d entries are listed", n)
	}
	return errors.Join(t.Delete(ctx, b, rb), t.Delete(ctx, other, ro))
}

func claims(ctx context.Context, q queue.Queue, name string) error {
	t, err := q.Table(ctx, "test")
	if err != nil {
		return err
	}
	c := queue.NewClaims(t, q.Lease())
	h, err := c.Claim(ctx, "vm/"+name, "one")
	if err != nil {
		return err
	}
	_, err = c.Claim(ctx, "vm/"+name, "two")
	held, ok := errors.AsType[*queue.HeldError](err)
	if !ok || held.Owner != "one" {
		return fmt.Errorf("a claim that is held: %v", err)
	}
	if err := errors.Join(h.Confirm(ctx), h.Release(ctx)); err != nil {
		return err
	}
	if h, err = c.Claim(ctx, "vm/"+name, "two"); err != nil {
		return err
	}
	return h.Release(ctx)
}

func takeEnds(ctx context.Context, q queue.Queue, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := q.Take(ctx, []string{name}); err == nil || ctx.Err() == nil {
		return fmt.Errorf("take: %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		return fmt.Errorf("it took %s", took)
	}
	return nil
}
