"""Measurements, findings and the report of a patient."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cohort": ["CohortRow", "cohort_page", "write_cohort_csv"],
        "comparison": ["Restoration"],
        "html": ["write_html"],
        "image_quality": ["ImageQuality", "assess_image"],
        "language": ["Language", "load_language"],
        "measurement": ["Measurements", "StructureMeasurement", "measure"],
        "pdf": ["write_pdf"],
        "prior": ["Prior", "check_priors", "read_prior"],
        "quality": ["Flag", "Verdict", "check_quality", "traffic_light"],
        "report": [
            "Stated",
            "StudyReport",
            "make_report",
            "make_restoration_report",
            "report_restored",
            "stated_of",
        ],
        "tables": [
            "csv_text",
            "long_rows",
            "measurements_schema",
            "to_json",
            "wide_row",
            "write_json",
        ],
    },
)
