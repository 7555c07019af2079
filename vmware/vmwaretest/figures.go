package vmwaretest

import (
	"path"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// SetReadLatency is what hosts tell of a datastore's average read, in milliseconds. Negative: they have no figure.
func (s *Server) SetReadLatency(datastore string, millis int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency[datastore] = millis
}

// SetFreeSpace is how much room a datastore has, in bytes. With less than 1 MiB no snapshot is created there.
func (s *Server) SetFreeSpace(datastore string, bytes int64) {
	ds, ctx := s.datastore(datastore), s.context()
	if ds == nil {
		return
	}
	ctx.WithLock(ds, func() {
		ds.Info.GetDatastoreInfo().FreeSpace = bytes
		ctx.Update(ds, []types.PropertyChange{{Name: "summary.freeSpace", Val: bytes}})
	})
}

// datastoreCalls are the calls on datastores.
type datastoreCalls struct{ overlaid }

// RefreshDatastore leaves the figures as they were set.
func (c *datastoreCalls) RefreshDatastore(*simulator.Context, *types.RefreshDatastore) soap.HasFault {
	return &methods.RefreshDatastoreBody{Res: &types.RefreshDatastoreResponse{}}
}

// RefreshDatastoreStorageInfo leaves the figures as they were set.
func (c *datastoreCalls) RefreshDatastoreStorageInfo(*simulator.Context, *types.RefreshDatastoreStorageInfo) soap.HasFault {
	return &methods.RefreshDatastoreStorageInfoBody{Res: &types.RefreshDatastoreStorageInfoResponse{}}
}

// performanceCalls are the calls on the performance manager.
type performanceCalls struct{ overlaid }

const (
	maxSpecs   = 256
	maxSamples = 1000
)

// QueryPerf answers what was set for datastore.totalReadLatency.average, and the simulator's figures for everything else.
func (c *performanceCalls) QueryPerf(ctx *simulator.Context, req *types.QueryPerf) soap.HasFault {
	body := &methods.QueryPerfBody{}
	if len(req.QuerySpec) > maxSpecs {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "querySpec"})
		return body
	}
	counter := c.s.latencyCounter()
	body.Res = &types.QueryPerfResponse{}
	for _, spec := range req.QuerySpec {
		if spec.Entity.Type == "HostSystem" && len(spec.MetricId) == 1 && spec.MetricId[0].CounterId == counter {
			body.Res.Returnval = append(body.Res.Returnval, c.s.readLatency(spec))
			continue
		}
		manager, ok := c.s.reg.Get(req.This).(*simulator.PerformanceManager)
		if !ok {
			continue
		}
		one, ok := manager.QueryPerf(ctx, &types.QueryPerf{This: req.This, QuerySpec: []types.PerfQuerySpec{spec}}).(*methods.QueryPerfBody)
		if !ok || one.Fault_ != nil {
			return one
		}
		body.Res.Returnval = append(body.Res.Returnval, one.Res.Returnval...)
	}
	return body
}

func (s *Server) latencyCounter() int32 {
	manager, ok := s.reg.Get(*s.model.ServiceContent.PerfManager).(*simulator.PerformanceManager)
	if !ok {
		return 0
	}
	for _, p := range manager.PerfCounter {
		if p.GroupInfo.GetElementDescription().Key == "datastore" && p.NameInfo.GetElementDescription().Key == "totalReadLatency" &&
			p.RollupType == types.PerfSummaryTypeAverage {
			return p.Key
		}
	}
	return 0
}

// readLatency is what a host tells of the datastores that were asked about: "*" are all, and else one by its id.
func (s *Server) readLatency(spec types.PerfQuerySpec) *types.PerfEntityMetric {
	n := min(max(spec.MaxSample, 1), maxSamples)
	out := &types.PerfEntityMetric{PerfEntityMetricBase: types.PerfEntityMetricBase{Entity: spec.Entity}}
	for i := range n {
		at := time.Now().Add(-20 * time.Second * time.Duration(n-1-i))
		out.SampleInfo = append(out.SampleInfo, types.PerfSampleInfo{Timestamp: at, Interval: 20})
	}
	want := spec.MetricId[0].Instance
	for _, e := range s.reg.All("Datastore") {
		ds := e.(*simulator.Datastore)
		id := path.Base(ds.Summary.Url)
		if want != "*" && want != id {
			continue
		}
		s.mu.Lock()
		millis := s.latency[ds.Name]
		s.mu.Unlock()
		series := &types.PerfMetricIntSeries{}
		series.Id = types.PerfMetricId{CounterId: spec.MetricId[0].CounterId, Instance: id}
		for range n {
			series.Value = append(series.Value, max(millis, -1))
		}
		out.Value = append(out.Value, series)
	}
	return out
}
