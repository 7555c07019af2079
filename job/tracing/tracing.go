// Package tracing makes OpenTelemetry spans of sessions: one for the session, one for each of its phases, and in the copy one for each
// disk. It is an adapter: package job knows nothing of it. It uses the API alone, so that the program chooses the SDK, or none.
//
//	ctx, events := tracing.Session(ctx, otel.Tracer("backups"), "backup")
//	job.Backup(ctx, provider, vm, backend, &job.BackupOptions{Events: events})
//
// # Attributes
//
//	hikae.session, hikae.kind, hikae.vm, hikae.point, hikae.consistency   of the session's span
//	hikae.bytes.size, .read, .moved, .stored                              of the session's span and of a disk's
//	hikae.disk, hikae.method                                              of a disk's span
//
// A fallback and a warning are events of the span that is open. A session that failed has the status error, and its text.
package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/hikae/hikae/job"
)

// Session begins the span of a session and returns who listens to its events: the span ends with the session's last one. The context
// is the span's, for whatever the session calls.
func Session(ctx context.Context, tracer trace.Tracer, kind string) (context.Context, func(job.Event)) {
	ctx, span := tracer.Start(ctx, "hikae "+kind, trace.WithAttributes(attribute.String("hikae.kind", kind)))
	s := &session{ctx: ctx, tracer: tracer, span: span}
	return ctx, s.event
}

// session has the spans that are open: its own, a phase's, a disk's. Its events come one at a time.
type session struct {
	ctx    context.Context // parent of the spans of phases
	tracer trace.Tracer
	span   trace.Span

	phase, disk trace.Span
	phaseCtx    context.Context
}

func (s *session) event(e job.Event) {
	switch e := e.(type) {
	case job.PhaseStarted:
		s.endPhase()
		s.phaseCtx, s.phase = s.tracer.Start(s.ctx, string(e.Phase))
		s.span.SetAttributes(attribute.String("hikae.session", e.Session))
	case job.DiskStarted:
		s.endDisk()
		parent := s.phaseCtx
		if parent == nil {
			parent = s.ctx
		}
		_, s.disk = s.tracer.Start(parent, "disk", trace.WithAttributes(attribute.String("hikae.disk", e.Key), attribute.Int64("hikae.bytes.size", e.Size)))
	case job.DiskDone:
		if s.disk != nil {
			s.disk.SetAttributes(amounts(e.Stats.Read, e.Stats.Moved, e.Stats.Stored)...)
		}
		s.endDisk()
	case job.FellBack:
		s.now().AddEvent("fallback", trace.WithAttributes(attribute.String("hikae.disk", e.Disk), attribute.String("from", string(e.From)),
			attribute.String("to", string(e.To)), attribute.String("reason", e.Reason)))
	case job.Warned:
		s.now().AddEvent("warning", trace.WithAttributes(attribute.String("text", e.Text)))
	case job.SessionEnded:
		s.end(&e.Record)
	}
}

// now is the innermost span that is open.
func (s *session) now() trace.Span {
	switch {
	case s.disk != nil:
		return s.disk
	case s.phase != nil:
		return s.phase
	}
	return s.span
}

func (s *session) endDisk() {
	if s.disk != nil {
		s.disk.End()
	}
	s.disk = nil
}

func (s *session) endPhase() {
	s.endDisk()
	if s.phase != nil {
		s.phase.End()
	}
	s.phase, s.phaseCtx = nil, nil
}

func (s *session) end(r *job.Record) {
	if r.Error != "" {
		s.now().SetStatus(codes.Error, r.Error)
		s.span.SetStatus(codes.Error, r.Error)
	}
	s.endPhase()
	s.span.SetAttributes(attribute.String("hikae.session", r.Session()), attribute.String("hikae.vm", r.VM()))
	if b := r.Backup; b != nil {
		var read, moved int64
		for _, d := range b.Disks {
			read, moved = read+d.Read, moved+d.Moved
		}
		s.span.SetAttributes(attribute.String("hikae.point", b.Point), attribute.String("hikae.consistency", b.Consistency))
		s.span.SetAttributes(amounts(read, moved, b.Stored)...)
	}
	if t := r.Restore; t != nil {
		s.span.SetAttributes(attribute.String("hikae.point", t.Point))
	}
	s.span.End()
}

func amounts(read, moved, stored int64) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.Int64("hikae.bytes.read", read), attribute.Int64("hikae.bytes.moved", moved), attribute.Int64("hikae.bytes.stored", stored)}
}
