package hyperv

// strategyOf is the procedure of a plan.
func (p *Provider) strategyOf(plan *Plan) strategy {
	switch {
	case plan.Procedure == Writer2012:
		return writer2012{p}
	case plan.Procedure == Writer2012R2:
		return writer2012R2{p}
	case plan.Procedure == Requested:
		return requested{p}
	case plan.Mode == OffHost:
		return offHostProduction{p}
	}
	return onHostProduction{p}
}
