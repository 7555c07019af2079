package netlab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// cubic is how a route says which congestion control its connections have. The setting of the namespace will not do:
// where the machine does not allow cubic to everybody, only the first namespace may choose it.
var cubic = []string{"congctl", "cubic"}

// Cable is a veth pair between two spaces.
type Cable struct {
	A, B   string // addresses of its ends
	spaces [2]*Space
	links  [2]string
}

// Cable joins two spaces. Rate is in bits per second each way; 0: as fast as the machine is.
func (l *Lab) Cable(ctx context.Context, a, b *Space, rate int64) (*Cable, error) {
	net := l.subnet()
	c := &Cable{A: net + ".1", B: net + ".2", spaces: [2]*Space{a, b}}
	if err := c.make(ctx); err != nil {
		return nil, err
	}
	return c, c.SetRate(ctx, rate)
}

// subnet is the next free net of 256 addresses, as its first three numbers. Namespaces keep labs apart, so numbers may
// repeat between them.
func (l *Lab) subnet() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nets++
	return fmt.Sprintf("10.%d.%d", 64+l.nets/256%64, l.nets%256)
}

func (c *Cable) make(ctx context.Context) error {
	n := made.Add(1)
	c.links = [2]string{fmt.Sprintf("hk%da", n), fmt.Sprintf("hk%db", n)}
	err := c.spaces[0].ip(ctx, "link", "add", c.links[0], "type", "veth", "peer", "name", c.links[1], "netns", c.spaces[1].Name)
	if err != nil {
		return err
	}
	for i, address := range []string{c.A, c.B} {
		if err := c.spaces[i].ip(ctx, "address", "add", address+"/24", "dev", c.links[i]); err != nil {
			return err
		}
		if err := c.spaces[i].ip(ctx, "link", "set", c.links[i], "up"); err != nil {
			return err
		}
		net := address[:strings.LastIndexByte(address, '.')] + ".0/24"
		err := c.spaces[i].ip(ctx, append([]string{"route", "replace", net, "dev", c.links[i], "src", address}, cubic...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// SetRate changes the rate, in bits per second each way; 0: none.
func (c *Cable) SetRate(ctx context.Context, rate int64) error {
	for i, s := range c.spaces {
		args := []string{"tc", "-netns", s.Name, "qdisc", "replace", "dev", c.links[i], "root"}
		if rate > 0 {
			burst := max(rate/8/250, 64<<10) // 4 ms of it
			args = append(args, "tbf", "rate", strconv.FormatInt(rate, 10)+"bit", "burst", strconv.FormatInt(burst, 10), "latency", "50ms")
		} else {
			args = append(args, "pfifo", "limit", "1000")
		}
		if _, err := run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Sent is what one end of a cable has sent. What the kernel leaves to a device to cut up counts as one packet.
type Sent struct{ Packets, Bytes int64 } // Bytes: with the headers of Ethernet

// Sent is what the ends have sent so far.
func (c *Cable) Sent() (a, b Sent, err error) {
	if a, err = c.spaces[0].sent(c.links[0]); err != nil {
		return a, b, err
	}
	b, err = c.spaces[1].sent(c.links[1])
	return a, b, err
}

// sent is what a device of the space has sent, as the kernel counts it.
func (s *Space) sent(device string) (n Sent, err error) {
	err = s.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			name, counts, _ := strings.Cut(strings.TrimSpace(line), ":")
			if fields := strings.Fields(counts); name == device && len(fields) > 9 {
				_, err = fmt.Sscan(fields[8]+" "+fields[9], &n.Bytes, &n.Packets)
				return err
			}
		}
		return fmt.Errorf("no device %s in %s", device, s.Name)
	})
	return n, err
}
