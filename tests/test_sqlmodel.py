"""Hosts whose classes are SQLModel's, which are pydantic models and mapped classes at once."""

import copy
import datetime
import decimal
import enum
import pickle
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlmodel import Field, Relationship, Session, SQLModel

from person_repo import Service, make_region


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class PilotBase(SQLModel):
    name: str = Field(index=True)
    age: int | None = None


class Pilot(PilotBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    colour: Colour = Colour.RED
    fee: decimal.Decimal = Field(default=decimal.Decimal("0"), max_digits=6, decimal_places=2)
    born: datetime.datetime | None = None
    tags: list[str] = Field(default_factory=list, sa_column=sa.Column(sa.JSON))
    crew_name: str | None = Field(default=None, foreign_key="crew.name")
    crew: "Crew" = Relationship(back_populates="pilots")


class Crew(SQLModel, table=True):
    name: str = Field(primary_key=True)
    city: str = ""
    pilots: list[Pilot] = Relationship(back_populates="crew")


class PilotPublic(PilotBase):
    id: uuid.UUID
    tags: list[str]


BORN = datetime.datetime(1990, 5, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture
def pilots(engine: sa.Engine, cache_url: str) -> Iterator[Service[Pilot]]:
    SQLModel.metadata.create_all(engine)
    with Service.over(Pilot, engine, make_region(cache_url)) as pilots:
        yield pilots


def saved(pilots: Service[Pilot]) -> uuid.UUID:
    pilot = Pilot(name="Deadpond", fee=decimal.Decimal("1.50"), born=BORN, tags=["red", "fast"], colour=Colour.BLUE)
    with Session(pilots.engine) as session:
        session.add(pilot)
        session.commit()
        return pilot.id


def test_a_hit_is_the_model_that_a_session_loads(pilots: Service[Pilot]) -> None:
    id = saved(pilots)
    loaded, hit = pilots.get_one(id), pilots.get_one(id)
    assert pilots.stats().hits == 1
    with Session(pilots.engine) as session:
        expunged = session.get_one(Pilot, id)
        session.expunge(expunged)
    with pilots.using(use_db=True):
        read = pilots.get_one(id)
    for pilot in (loaded, hit, read):
        assert pilot == expunged
        assert pilot.model_dump() == expunged.model_dump()
        assert pilot.model_dump(mode="json") == expunged.model_dump(mode="json")
        assert pilot.model_fields_set == expunged.model_fields_set
        assert (pilot.colour, pilot.fee, pilot.born) == (Colour.BLUE, decimal.Decimal("1.50"), BORN)


def test_a_hit_validates_copies_and_pickles(pilots: Service[Pilot]) -> None:
    id = saved(pilots)
    pilots.get(id)
    hit = pilots.get_one(id)
    assert PilotPublic.model_validate(hit) == PilotPublic(id=id, name="Deadpond", age=None, tags=["red", "fast"])
    assert copy.deepcopy(hit) == hit
    assert pickle.loads(pickle.dumps(hit)) == hit
    assert hit.model_copy(update={"age": 3}).age == 3


def test_what_is_written_by_any_session_is_read(pilots: Service[Pilot]) -> None:
    id = saved(pilots)
    pilots.get(id)
    with Session(pilots.engine) as session:
        session.get_one(Pilot, id).age = 30
        session.commit()
    assert pilots.get_one(id).age == 30

    with Session(pilots.engine) as session:
        session.merge(pilots.get_one(id)).age = 31
        session.commit()
    assert pilots.get_one(id).age == 31

    with Session(pilots.engine) as session:
        hit = pilots.get_one(id)
        session.add(hit)
        hit.sqlmodel_update({"age": 32})
        session.commit()
    assert pilots.get_one(id).age == 32

    with Session(pilots.engine) as session:
        session.exec(sa.update(Pilot).where(sa.column("name") == "Deadpond").values(age=33))
        session.commit()
    assert pilots.get_one(id).age == 33


def test_the_service_writes_models(pilots: Service[Pilot]) -> None:
    pilot = Pilot(name="Rusty")
    id = pilot.id
    pilots.add(pilot)
    assert pilots.get_one(id).name == "Rusty"
    pilots.update(id, age=5)
    assert pilots.get_one(id).age == 5
    pilots.upsert(Pilot(id=id, name="Rust"))
    assert (pilots.get_one(id).name, pilots.get_one(id).age) == ("Rust", None)
    assert pilots.delete(id)
    assert pilots.get(id) is None


def test_keys_of_the_type_of_sqlmodels_strings(engine: sa.Engine, cache_url: str) -> None:
    """``AutoString`` is a ``TypeDecorator``, whose length depends on the database."""
    SQLModel.metadata.create_all(engine)
    with Service.over(Crew, engine, make_region(cache_url)) as crews:
        crews.add(Crew(name="Köln"))
        assert crews.get_one("Köln").city == ""
        with Session(engine) as session:
            session.exec(sa.update(Crew).values(city="K"))
            session.commit()
        assert crews.get_one("Köln").city == "K"
        with crews.using(use_db=True):
            in_database = crews.get("köln") is not None
        assert (crews.get("köln") is not None) == in_database
        if in_database:
            with Session(engine) as session:
                session.get_one(Crew, "Köln").city = "again"
                session.commit()
            assert crews.get_one("köln").city == "again"
