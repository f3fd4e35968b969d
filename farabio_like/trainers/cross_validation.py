Ensemble = cross_validate = None
