package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// machine is one VM.
type machine struct {
	host   int
	data   float64 // bytes
	change float64 // share of data a day
	took   time.Duration
}

// machines are VMs of many sizes, as they are: most are small, a few are large. Together they have what was asked for.
func (f *fleet) machines() []*machine {
	rnd := rand.New(rand.NewPCG(f.Seed, 2))
	list := make([]*machine, f.VMs)
	data, changed := 0.0, 0.0
	for i := range list {
		m := &machine{host: i % f.Hosts, data: math.Exp(rnd.NormFloat64()), change: math.Exp(0.5 * rnd.NormFloat64())}
		list[i] = m
		data += m.data
		changed += m.data * m.change
	}
	want := f.Petabytes * 1e15 * f.Used
	for _, m := range list {
		m.change *= f.Change * data / changed
		m.change = min(m.change, 1)
		m.data *= want / data
	}
	return list
}

// task is a VM that is being copied.
type task struct {
	m      *machine
	worker int
	left   float64 // bytes to read
	rest   float64 // seconds of overhead
	began  float64
}

// run is all VMs once: workers take them in their order, passing by those whose host is busy, and share their links and the stores among
// what they do. Time goes from one end of a task to the next.
func (f *fleet) run(vms []*machine, amount func(*machine) float64, sent float64) night {
	r := &simulation{f: f, sent: sent, hosts: make([]int, f.Hosts), active: make([]int, f.Workers)}
	waiting := append([]*machine(nil), vms...)
	n := night{}
	busy, filled := 0.0, 0.0
	for len(waiting) > 0 || len(r.tasks) > 0 {
		waiting = r.begin(waiting, amount)
		step := r.step()
		if len(waiting) > 0 {
			busy += step * float64(len(r.tasks))
			filled += step
		}
		r.pass(step)
	}
	for _, m := range vms {
		n.Read += amount(m)
	}
	n.Sent, n.Seconds = n.Read*sent, r.now
	if filled > 0 {
		n.Busy = busy / filled / float64(f.Workers*f.Slots)
	}
	n.Limit = r.limit()
	return n
}

type simulation struct {
	f      *fleet
	sent   float64
	now    float64
	tasks  []*task
	hosts  []int // tasks on each
	active []int // tasks on each worker
	by     [4]float64
}

var limits = [...]string{"reading", "the workers' links", "the stores", "snapshots and commits"}

// begin gives waiting VMs to workers with a free slot, the emptiest first.
func (s *simulation) begin(waiting []*machine, amount func(*machine) float64) []*machine {
	free := s.f.Workers*s.f.Slots - len(s.tasks)
	keep := waiting[:0]
	for i, m := range waiting {
		if free == 0 {
			return append(keep, waiting[i:]...)
		}
		if s.hosts[m.host] >= s.f.PerHost {
			keep = append(keep, m)
			continue
		}
		w := 0
		for k := range s.active {
			if s.active[k] < s.active[w] {
				w = k
			}
		}
		s.active[w]++
		s.hosts[m.host]++
		free--
		s.tasks = append(s.tasks, &task{m: m, worker: w, left: amount(m), rest: s.f.Overhead.Seconds(), began: s.now})
	}
	return keep
}

// rate is how fast a task reads now, and what keeps it from more.
func (s *simulation) rate(t *task) (float64, int) {
	link := s.f.Link * 1e9 / 8 / float64(s.active[t.worker])
	store := s.f.Store * 1e9 / 8 / float64(len(s.tasks)) / s.sent
	best, why := s.f.Read*1e6, 0
	if link < best {
		best, why = link, 1
	}
	if store < best {
		best, why = store, 2
	}
	return best, why
}

// step is the time until the next task is through with its part.
func (s *simulation) step() float64 {
	step := math.Inf(1)
	for _, t := range s.tasks {
		if t.rest > 0 {
			step = min(step, t.rest)
		} else {
			rate, _ := s.rate(t)
			step = min(step, t.left/rate)
		}
	}
	return max(step, 1e-6)
}

// pass lets time go by.
func (s *simulation) pass(step float64) {
	s.now += step
	rates := make([]float64, len(s.tasks))
	for i, t := range s.tasks {
		if t.rest > 0 {
			s.by[3] += step
			continue
		}
		var why int
		rates[i], why = s.rate(t)
		s.by[why] += step
	}
	keep := s.tasks[:0]
	for i, t := range s.tasks {
		if t.rest > 0 {
			t.rest = max(t.rest-step, 0)
		} else {
			t.left -= rates[i] * step
		}
		if t.rest < 1e-6 && t.left < 1 {
			t.m.took = time.Duration((s.now - t.began) * float64(time.Second))
			s.active[t.worker]--
			s.hosts[t.m.host]--
			continue
		}
		keep = append(keep, t)
	}
	s.tasks = keep
}

// limit is what tasks spent most of their time on.
func (s *simulation) limit() string {
	most := 0
	for i := range s.by {
		if s.by[i] > s.by[most] {
			most = i
		}
	}
	return limits[most]
}
