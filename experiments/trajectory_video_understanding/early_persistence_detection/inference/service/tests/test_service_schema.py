"""Whatever the OpenAPI document allows, and what it forbids: never a failure of the service, and answers as documented."""

from __future__ import annotations


import pytest
import schemathesis
from early_persistence_detection.inference.service.tests.running_service import RunningService, running
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

MANY = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    with running(tmp_path_factory.mktemp("schema"), "--max_cameras", "20", "--max_jobs", "1") as made:
        yield made


@pytest.fixture(scope="module")
def api(service: RunningService):
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    return document.exclude(path="/v1/events")  # without end


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@MANY
def test_every_request_is_answered_as_documented(case: schemathesis.Case):
    case.call_and_validate(
        checks=[not_a_server_error, content_type_conformance, response_schema_conformance], timeout=60
    )
