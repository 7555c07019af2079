package vmware

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	maxLatencyHosts = 8 // that are asked about one datastore
	realtimeSeconds = 20
)

// errNoFigure: there is none for this datastore, and there will be none.
var errNoFigure = errors.New("no host tells how long it takes for a read")

// passes: an error of the way or of the moment, after which the figure may come again.
func passes(err error) bool {
	return !errors.Is(err, errNoFigure) && !cannot(err)
}

// latencyCounters reads datastore.totalReadLatency.average: a counter of each host, with the datastore's id as its instance.
type latencyCounters struct {
	c *Client

	mu      sync.Mutex
	counter int32 // its number at this server; zero: not looked up yet
	stores  map[types.ManagedObjectReference]latencyStore
}

// latencyStore is where to ask about a datastore.
type latencyStore struct {
	instance string
	hosts    []types.ManagedObjectReference
}

// read is the largest figure of the hosts that have the datastore mounted.
func (l *latencyCounters) read(ctx context.Context, ref types.ManagedObjectReference) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.lookUp(ctx); err != nil {
		return 0, err
	}
	store, err := l.store(ctx, ref)
	if err != nil {
		return 0, err
	}
	req := types.QueryPerf{This: *l.c.vim.ServiceContent.PerfManager}
	for _, host := range store.hosts {
		req.QuerySpec = append(req.QuerySpec, types.PerfQuerySpec{Entity: host, MaxSample: 1, IntervalId: realtimeSeconds,
			MetricId: []types.PerfMetricId{{CounterId: l.counter, Instance: store.instance}}})
	}
	res, err := methods.QueryPerf(ctx, l.c.vim, &req)
	if err != nil {
		return 0, fmt.Errorf("datastore %s: %w", ref.Value, err)
	}
	return l.largest(ref, res.Returnval, store.instance)
}

func (l *latencyCounters) largest(ref types.ManagedObjectReference, metrics []types.BasePerfEntityMetricBase, instance string) (int64, error) {
	most, some := int64(0), false
	for _, m := range metrics {
		entity, ok := m.(*types.PerfEntityMetric)
		if !ok {
			continue
		}
		for _, v := range entity.Value {
			series, ok := v.(*types.PerfMetricIntSeries)
			if !ok || series.Id.CounterId != l.counter || series.Id.Instance != instance || len(series.Value) == 0 {
				continue
			}
			// A host says -1 where it has no figure for that time.
			if last := series.Value[len(series.Value)-1]; last >= 0 {
				most, some = max(most, last), true
			}
		}
	}
	if !some {
		return 0, fmt.Errorf("datastore %s: no figure in the last %d seconds", ref.Value, realtimeSeconds)
	}
	return most, nil
}

// lookUp finds the counter's number.
func (l *latencyCounters) lookUp(ctx context.Context) error {
	if l.counter != 0 {
		return nil
	}
	if l.c.vim.ServiceContent.PerfManager == nil {
		return fmt.Errorf("the server keeps no figures: %w", errNoFigure)
	}
	var manager mo.PerformanceManager
	if err := l.c.properties(ctx, *l.c.vim.ServiceContent.PerfManager, []string{"perfCounter"}, &manager); err != nil {
		return err
	}
	for _, info := range manager.PerfCounter {
		if keyOf(info.GroupInfo) == "datastore" && keyOf(info.NameInfo) == "totalReadLatency" &&
			info.RollupType == types.PerfSummaryTypeAverage {
			l.counter = info.Key
			return nil
		}
	}
	return fmt.Errorf("the server has no counter datastore.totalReadLatency.average: %w", errNoFigure)
}

func keyOf(d types.BaseElementDescription) string {
	if d == nil {
		return ""
	}
	return d.GetElementDescription().Key
}

// store finds a datastore's id and the hosts that have it mounted.
func (l *latencyCounters) store(ctx context.Context, ref types.ManagedObjectReference) (latencyStore, error) {
	if s, ok := l.stores[ref]; ok {
		return s, nil
	}
	var ds mo.Datastore
	if err := l.c.properties(ctx, ref, []string{"summary", "host"}, &ds); err != nil {
		return latencyStore{}, err
	}
	switch strings.ToLower(ds.Summary.Type) {
	case "vsan", "vvol":
		return latencyStore{}, fmt.Errorf("datastore %s is of type %s: %w", ds.Summary.Name, ds.Summary.Type, errNoFigure)
	}
	// ds:///vmfs/volumes/4f2a…/ for all kinds
	s := latencyStore{instance: path.Base(strings.TrimRight(ds.Summary.Url, "/"))}
	for _, mount := range ds.Host {
		if len(s.hosts) < maxLatencyHosts && (mount.MountInfo.Accessible == nil || *mount.MountInfo.Accessible) {
			s.hosts = append(s.hosts, mount.Key)
		}
	}
	if len(s.hosts) == 0 || s.instance == "." || s.instance == "/" {
		return latencyStore{}, fmt.Errorf("datastore %s: %w", ds.Summary.Name, errNoFigure)
	}
	if l.stores == nil || len(l.stores) >= maxDatastores {
		l.stores = map[types.ManagedObjectReference]latencyStore{}
	}
	l.stores[ref] = s
	return s, nil
}
