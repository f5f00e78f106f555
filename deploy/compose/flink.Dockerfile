# A Flink that has Beam's jars, and the job server that sends none of them (../README.md, "A fast batch").
FROM maven:3-eclipse-temurin-17 AS jars
COPY . /project
RUN mvn --file /project/pom.xml --batch-mode package && mkdir /for-flink && cp /project/target/libs/*.jar /for-flink \
    && rm /for-flink/flink-*.jar /for-flink/slf4j-*.jar
FROM flink:1.19.0-scala_2.12-java17 AS cluster
COPY --from=jars /for-flink/ /opt/flink/lib/
FROM eclipse-temurin:17-jre AS job-server
COPY --from=jars /project/target/job-server.jar /opt/beam/job-server.jar
COPY --from=jars /project/target/libs/ /opt/beam/libs/
ENTRYPOINT ["java", "-Djava.system.class.loader=UnstagedJars", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-jar", "/opt/beam/job-server.jar"]
