"""Measurements, findings and the report of a patient."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cohort": ["CohortRow", "cohort_page", "write_cohort_csv"],
        "html": ["write_html"],
        "image_quality": ["ImageQuality", "assess_image"],
        "language": ["Language", "load_language"],
        "measurement": ["Measurements", "StructureMeasurement", "measure"],
        "pdf": ["write_pdf"],
        "quality": ["Flag", "check_quality", "traffic_light"],
        "report": ["Prior", "Restoration", "StudyReport", "make_report", "make_restoration_report"],
        "tables": [
            "csv_text",
            "long_rows",
            "measurements_schema",
            "read_prior",
            "to_json",
            "wide_row",
            "write_json",
        ],
    },
)
